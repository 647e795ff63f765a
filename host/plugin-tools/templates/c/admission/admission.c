/* The exports of the world, in the canonical ABI: a list comes as address and length, the answer's address is returned;
 * `cabi_post_…` is called when the host has taken it. */
#include "admission.h"

#define PLUGIN "orlop:admission/plugin@1.0.0#"

ORLOP_LIST(orlop_verdict, orlop_verdicts);

/* One call at a time: one place for the answer is enough. */
static orlop_verdicts verdicts;

static orlop_verdicts *each(orlop_request *requests, uint32_t length, void (*of)(const orlop_request *, orlop_verdict *)) {
    verdicts = (orlop_verdicts){orlop_scratch(length * sizeof(orlop_verdict)), length};
    for (uint32_t i = 0; i < length; i++) {
        verdicts.items[i].allowed = true;
        of(&requests[i], &verdicts.items[i]);
    }
    return &verdicts;
}

ORLOP_EXPORT(PLUGIN "mutate") orlop_verdicts *export_mutate(orlop_request *requests, uint32_t length) {
    return each(requests, length, plugin_mutate);
}

ORLOP_EXPORT(PLUGIN "validate") orlop_verdicts *export_validate(orlop_request *requests, uint32_t length) {
    return each(requests, length, plugin_validate);
}

ORLOP_EXPORT("cabi_post_" PLUGIN "mutate") void after_mutate(orlop_verdicts *answer) { (void)answer, orlop_end_call(); }
ORLOP_EXPORT("cabi_post_" PLUGIN "validate") void after_validate(orlop_verdicts *answer) { (void)answer, orlop_end_call(); }

/* Called only where the manifest names the phase. */
static _Noreturn void not_defined(void) {
    orlop_panic(ORLOP_TEXT("manifest.json names a phase that plugin.c does not define"));
}

ORLOP_DEFAULT void plugin_mutate(const orlop_request *request, orlop_verdict *verdict) {
    (void)request, (void)verdict;
    not_defined();
}

ORLOP_DEFAULT void plugin_validate(const orlop_request *request, orlop_verdict *verdict) {
    (void)request, (void)verdict;
    not_defined();
}

void orlop_forbid(const orlop_request *request, orlop_string reason, orlop_verdict *verdict) {
    orlop_string resource = request->resource, dot = {".", request->group.length > 0};
    orlop_string message = ORLOP_JOIN(resource, dot, request->group, ORLOP_TEXT(" \""), request->name,
                                      ORLOP_TEXT("\" is forbidden: "), reason);
    orlop_string group = request->group.length == 0
                             ? ORLOP_TEXT("")
                             : ORLOP_JOIN(ORLOP_TEXT(", \"group\": "), orlop_json_quote(request->group));
    verdict->allowed = false;
    verdict->status = ORLOP_JOIN(
        ORLOP_TEXT("{\"apiVersion\": \"v1\", \"kind\": \"Status\", \"metadata\": {}, \"status\": \"Failure\", "
                   "\"code\": 403, \"reason\": \"Forbidden\", \"details\": {\"name\": "),
        orlop_json_quote(request->name), ORLOP_TEXT(", \"kind\": "), orlop_json_quote(resource), group,
        ORLOP_TEXT("}, \"message\": "), orlop_json_quote(message), ORLOP_TEXT("}"));
}
