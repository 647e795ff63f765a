/* The exports of `orlop:types/lifecycle`, in the canonical ABI. */
#include "orlop.h"

#define LIFECYCLE "orlop:types/lifecycle@1.0.0#"

/* `result<_, string>` */
typedef struct {
    uint8_t failed;
    orlop_string error;
} answer;

static answer initialized, tested;

ORLOP_EXPORT(LIFECYCLE "init") answer *export_init(char *config, uint32_t length) {
    initialized = (answer){0};
    initialized.failed = !plugin_init((orlop_string){config, length}, &initialized.error);
    return &initialized;
}

ORLOP_EXPORT(LIFECYCLE "self-test") answer *export_self_test(void) {
    tested = (answer){0};
    tested.failed = !plugin_self_test(&tested.error);
    return &tested;
}

ORLOP_EXPORT("cabi_post_" LIFECYCLE "init") void after_init(answer *a) { (void)a, orlop_end_call(); }
ORLOP_EXPORT("cabi_post_" LIFECYCLE "self-test") void after_self_test(answer *a) { (void)a, orlop_end_call(); }

ORLOP_DEFAULT bool plugin_init(orlop_string config, orlop_string *error) {
    (void)config, (void)error;
    return true;
}

ORLOP_DEFAULT bool plugin_self_test(orlop_string *error) {
    (void)error;
    return true;
}
