/* {{camel}}: a pod without the label `{{name}}` gets one; one whose label is empty is refused. */
#include "admission.h"

#define LABEL "{{name}}"

/* Value of the label where a pod has none, as JSON. */
static orlop_string by_default;

bool plugin_init(orlop_string config, orlop_string *error) {
    (void)error; /* the manifest's schema has been checked */
    orlop_string value = ORLOP_TEXT("\"nobody\"");
    ORLOP_GET(config, &value, "default");
    by_default = orlop_keep(value);
    return true;
}

void plugin_mutate(const orlop_request *request, orlop_verdict *verdict) {
    orlop_string found;
    if (request->object.length == 0 || ORLOP_GET(request->object, &found, "metadata", "labels", LABEL)) {
        return;
    }
    if (ORLOP_GET(request->object, &found, "metadata", "labels") && !orlop_equal(found, ORLOP_TEXT("null"))) {
        verdict->patch = ORLOP_JOIN(ORLOP_TEXT("[{\"op\": \"add\", \"path\": \"/metadata/labels/" LABEL "\", \"value\": "),
                                    by_default, ORLOP_TEXT("}]"));
    } else {
        verdict->patch =
            ORLOP_JOIN(ORLOP_TEXT("[{\"op\": \"add\", \"path\": \"/metadata/labels\", \"value\": {\"" LABEL "\": "),
                       by_default, ORLOP_TEXT("}}]"));
    }
}

void plugin_validate(const orlop_request *request, orlop_verdict *verdict) {
    orlop_string found;
    if (ORLOP_GET(request->object, &found, "metadata", "labels", LABEL) && orlop_equal(found, ORLOP_TEXT("\"\""))) {
        orlop_forbid(request, ORLOP_TEXT("the label " LABEL " must not be empty"), verdict);
    }
}
