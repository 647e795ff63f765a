/* The exports of the world, in the canonical ABI: arguments come flat, an answer of more than one number is written to
 * memory and its address returned; `cabi_post_…` is called when the host has taken it. */
#include "scheduler.h"

#define PLUGIN "orlop:scheduler/plugin@2.0.0#"
#define AFTER(function) ORLOP_EXPORT("cabi_post_" PLUGIN function) void

/* `result<prepared, string>` */
typedef struct {
    uint8_t failed;
    union {
        orlop_prepared prepared;
        orlop_string error;
    };
} prepared_or_error;

/* One call at a time: one place for each answer is enough. */
static prepared_or_error preparation;
static orlop_synced synced;
static orlop_u64s words;
static orlop_bytes bytes;
static orlop_s64s numbers;
static orlop_explanation explanation;

ORLOP_EXPORT(PLUGIN "sync")
orlop_synced *export_sync(uint32_t full, uint32_t slots, uint32_t *rows, uint32_t rows_length, uint64_t *live,
                          uint32_t live_length, orlop_dictionary *dictionaries, uint32_t dictionaries_length,
                          orlop_s64_column *s64, uint32_t s64_length, orlop_u32_column *u32, uint32_t u32_length,
                          orlop_list_column *lists, uint32_t lists_length) {
    orlop_delta delta = {.full = full != 0,
                         .slots = slots,
                         .rows = {rows, rows_length},
                         .live = {live, live_length},
                         .dictionaries = {dictionaries, dictionaries_length},
                         .s64_columns = {s64, s64_length},
                         .u32_columns = {u32, u32_length},
                         .list_columns = {lists, lists_length}};
    synced = (orlop_synced){0};
    plugin_sync(&delta, &synced);
    return &synced;
}

ORLOP_EXPORT(PLUGIN "prepare") prepared_or_error *export_prepare(uint32_t class, char *pod, uint32_t length) {
    orlop_prepared prepared = {0};
    orlop_string error = {0};
    bool well = plugin_prepare(class, (orlop_string){pod, length}, &prepared, &error);
    preparation = (prepared_or_error){.failed = !well};
    if (well) {
        preparation.prepared = prepared;
    } else {
        preparation.error = error;
    }
    return &preparation;
}

ORLOP_EXPORT(PLUGIN "release") void export_release(uint32_t class) {
    plugin_release(class);
    orlop_end_call();
}

ORLOP_EXPORT(PLUGIN "filter") orlop_u64s *export_filter(uint32_t class, uint32_t *rows, uint32_t length) {
    words = plugin_filter(class, (orlop_u32s){rows, length});
    return &words;
}

ORLOP_EXPORT(PLUGIN "score") orlop_bytes *export_score(uint32_t class, uint32_t *rows, uint32_t length) {
    bytes = plugin_score(class, (orlop_u32s){rows, length});
    return &bytes;
}

ORLOP_EXPORT(PLUGIN "score-raw") orlop_s64s *export_score_raw(uint32_t class, uint32_t *rows, uint32_t length) {
    numbers = plugin_score_raw(class, (orlop_u32s){rows, length});
    return &numbers;
}

ORLOP_EXPORT(PLUGIN "normalize")
orlop_bytes *export_normalize(uint32_t class, uint64_t *feasible, uint32_t feasible_length, int64_t *raw,
                              uint32_t raw_length) {
    bytes = plugin_normalize(class, (orlop_u64s){feasible, feasible_length}, (orlop_s64s){raw, raw_length});
    return &bytes;
}

ORLOP_EXPORT(PLUGIN "explain") orlop_explanation *export_explain(uint32_t class, uint32_t *rows, uint32_t length) {
    explanation = plugin_explain(class, (orlop_u32s){rows, length});
    return &explanation;
}

AFTER("sync") after_sync(orlop_synced *answer) { (void)answer, orlop_end_call(); }
AFTER("prepare") after_prepare(prepared_or_error *answer) { (void)answer, orlop_end_call(); }
AFTER("filter") after_filter(orlop_u64s *answer) { (void)answer, orlop_end_call(); }
AFTER("score") after_score(orlop_bytes *answer) { (void)answer, orlop_end_call(); }
AFTER("score-raw") after_score_raw(orlop_s64s *answer) { (void)answer, orlop_end_call(); }
AFTER("normalize") after_normalize(orlop_bytes *answer) { (void)answer, orlop_end_call(); }
AFTER("explain") after_explain(orlop_explanation *answer) { (void)answer, orlop_end_call(); }

/* The answers of a plugin that does not define the function. */

ORLOP_DEFAULT void plugin_release(uint32_t class) { (void)class; }

/* Called only where the manifest declares the hook. */
static _Noreturn void not_defined(void) {
    orlop_panic(ORLOP_TEXT("manifest.json declares a hook that plugin.c does not define"));
}

ORLOP_DEFAULT orlop_bytes plugin_score(uint32_t class, orlop_u32s rows) {
    (void)class, (void)rows;
    not_defined();
}

ORLOP_DEFAULT orlop_s64s plugin_score_raw(uint32_t class, orlop_u32s rows) {
    (void)class, (void)rows;
    not_defined();
}

ORLOP_DEFAULT orlop_bytes plugin_normalize(uint32_t class, orlop_u64s feasible, orlop_s64s raw) {
    (void)class, (void)feasible, (void)raw;
    not_defined();
}

/* No reasons: rejections count under the plugin's name. */
ORLOP_DEFAULT orlop_explanation plugin_explain(uint32_t class, orlop_u32s rows) {
    (void)class;
    orlop_u32s offsets = {orlop_scratch((rows.length + 1) * sizeof(uint32_t)), rows.length + 1};
    return (orlop_explanation){.offsets = offsets};
}
