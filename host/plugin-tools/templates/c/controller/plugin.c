/* {{name}}: every namespace with the label `{{name}}` gets a ConfigMap `{{name}}` whose entry `value` is
 * that of the label. */
#include "controller.h"

/* The label on namespaces, and the name of the ConfigMap. */
#define NAME "{{name}}"

static orlop_string create(orlop_string namespace, orlop_string value) {
    return ORLOP_JOIN(
        ORLOP_TEXT("{\"writes\": [{\"op\": \"create\", \"apiVersion\": \"v1\", \"resource\": \"configmaps\", \"namespace\": "),
        namespace,
        ORLOP_TEXT(", \"ignore\": [\"AlreadyExists\", \"NamespaceTerminating\"], \"body\": {\"apiVersion\": \"v1\", "
                   "\"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"" NAME "\"}, \"data\": {\"value\": "),
        value, ORLOP_TEXT("}}}]}"));
}

static orlop_string patch(orlop_string namespace, orlop_string uid, orlop_string value) {
    return ORLOP_JOIN(
        ORLOP_TEXT("{\"writes\": [{\"op\": \"patch\", \"apiVersion\": \"v1\", \"resource\": \"configmaps\", \"namespace\": "),
        namespace, ORLOP_TEXT(", \"name\": \"" NAME "\", \"uid\": "), uid,
        ORLOP_TEXT(", \"ignore\": [\"NotFound\"], \"body\": {\"data\": {\"value\": "), value, ORLOP_TEXT("}}}]}"));
}

/* Called with what is, it says what to write so that it becomes what shall be. It is called again whenever one of the two
 * changes, so it must be content with what it wrote itself. */
orlop_string plugin_reconcile(orlop_string item, int64_t now) {
    (void)now;
    const orlop_string nothing = ORLOP_TEXT("{}");
    orlop_string namespace, wanted, notes, note, found, deleted, uid = ORLOP_TEXT("\"\"");
    /* Values stay JSON: they go into the plan as they came. */
    if (!ORLOP_GET(item, &namespace, "key", "name") || !ORLOP_GET(item, &wanted, "object", "metadata", "labels", NAME) ||
        ORLOP_GET(item, &deleted, "object", "metadata", "deletionTimestamp")) {
        return nothing;
    }
    if (!ORLOP_GET(item, &notes, "inputs", "notes") || !orlop_json_next(&notes, &note)) {
        return create(namespace, wanted);
    }
    if (ORLOP_GET(note, &found, "data", "value") && orlop_equal(found, wanted)) {
        return nothing;
    }
    ORLOP_GET(note, &uid, "metadata", "uid");
    return patch(namespace, uid, wanted);
}
