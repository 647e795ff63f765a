/* The exports of the world, in the canonical ABI: a request comes as address and length, the answer's address is returned;
 * `cabi_post_…` is called when the host has taken it. */
#include "controller.h"

#define RECONCILER "orlop:controller/reconciler@1.0.0#"

/* `result<list<u8>, string>`; both are text. */
typedef struct {
    uint8_t failed;
    orlop_string text;
} answer;

/* One call at a time: one place for the answer is enough. */
static answer answered;

ORLOP_EXPORT(RECONCILER "reconcile") answer *export_reconcile(char *request, uint32_t length) {
    orlop_string json = {request, length}, value, item;
    int64_t now = 0;
    if (!ORLOP_GET(json, &value, "now") || !orlop_number(value, &now) || !ORLOP_GET(json, &value, "items")) {
        answered = (answer){1, ORLOP_TEXT("the request has no `now` or no `items`")};
        return &answered;
    }
    orlop_string *plans = NULL;
    uint32_t count = 0, room = 0;
    while (orlop_json_next(&value, &item)) {
        plans = orlop_grow(plans, &room, 2 * (count + 1) + 1, sizeof *plans);
        plans[2 * count] = count ? ORLOP_TEXT(", ") : ORLOP_TEXT("{\"plans\": [");
        plans[2 * count + 1] = plugin_reconcile(item, now);
        count++;
    }
    if (count == 0) {
        answered = (answer){0, ORLOP_TEXT("{\"plans\": []}")};
        return &answered;
    }
    plans[2 * count] = ORLOP_TEXT("]}");
    answered = (answer){0, orlop_join(plans, 2 * count + 1)};
    orlop_free(plans);
    return &answered;
}

ORLOP_EXPORT("cabi_post_" RECONCILER "reconcile") void after_reconcile(answer *a) { (void)a, orlop_end_call(); }
