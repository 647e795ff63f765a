/* {{camel}}: a pod with the annotation `{{name}}: N` fits only nodes whose label `{{name}}` is a number
 * of at least N; the higher the label (up to 100), the better. */
#include "scheduler.h"

#define KEY "{{name}}"
/* What a node without the label has, so that it is less than any number asked for. */
#define NONE INT64_MIN

/* The mirror: the level of each label of dictionary 2, and of each slot. */
static int64_t *of_label, *of_slot;
static uint32_t labels, slots, label_room, slot_room;

/* What the pods of a class ask for, by class. */
static int64_t *wanted;
static uint32_t wanted_room;

static void forget(void) {
    orlop_free(of_label), orlop_free(of_slot);
    of_label = of_slot = NULL;
    labels = slots = label_room = slot_room = 0;
}

/* Only here text is compared, once for each label that the cluster has. */
static void learn(const orlop_dictionary *dictionary) {
    labels = dictionary->first + dictionary->entries.length;
    of_label = orlop_grow(of_label, &label_room, labels, sizeof *of_label);
    for (uint32_t i = 0; i < dictionary->entries.length; i++) {
        orlop_string label = dictionary->entries.items[i];
        int64_t level = NONE;
        if (orlop_starts_with(label, ORLOP_TEXT(KEY "=")) &&
            !orlop_number(orlop_skip(label, sizeof(KEY "=") - 1), &level)) {
            level = NONE;
        }
        of_label[dictionary->first + i] = level;
    }
}

void plugin_sync(const orlop_delta *delta, orlop_synced *synced) {
    (void)synced; /* no checksum, and no class is stale */
    if (delta->full) {
        forget();
    }
    of_slot = orlop_grow(of_slot, &slot_room, delta->slots, sizeof *of_slot);
    for (; slots < delta->slots; slots++) {
        of_slot[slots] = NONE;
    }
    for (uint32_t i = 0; i < delta->dictionaries.length; i++) {
        if (delta->dictionaries.items[i].dictionary == DICTIONARY_LABELS) {
            learn(&delta->dictionaries.items[i]);
        }
    }
    for (uint32_t i = 0; i < delta->list_columns.length; i++) {
        const orlop_list_column *column = &delta->list_columns.items[i];
        if (column->column != COLUMN_LABELS) {
            continue;
        }
        for (uint32_t row = 0; row < delta->rows.length; row++) {
            int64_t level = NONE;
            for (uint32_t v = column->offsets.items[row]; v < column->offsets.items[row + 1]; v++) {
                int64_t of_this = of_label[column->values.items[v]];
                level = of_this > level ? of_this : level;
            }
            of_slot[delta->rows.items[row]] = level;
        }
    }
}

bool plugin_prepare(uint32_t class, orlop_string pod, orlop_prepared *prepared, orlop_string *error) {
    orlop_string value, text;
    wanted = orlop_grow(wanted, &wanted_room, class + 1, sizeof *wanted);
    if (!ORLOP_GET(pod, &value, "metadata", "annotations", KEY) || !orlop_json_text(value, &text)) {
        /* Such pods cost nothing: neither filter nor score is called for them. */
        prepared->flags = PASSES_ALL | SCORES_NONE;
        return true;
    }
    if (!orlop_number(text, &wanted[class])) {
        *error = ORLOP_JOIN(ORLOP_TEXT("annotation " KEY ": `"), text, ORLOP_TEXT("` is no number"));
        return false;
    }
    return true;
}

orlop_u64s plugin_filter(uint32_t class, orlop_u32s rows) {
    uint32_t count = rows.length ? rows.length : slots;
    orlop_u64s fits = {orlop_scratch((count + 63) / 64 * sizeof(uint64_t)), (count + 63) / 64};
    int64_t least = wanted[class];
    if (!rows.length) {
        for (uint32_t i = 0; i < count; i++) {
            fits.items[i / 64] |= (uint64_t)(of_slot[i] >= least) << (i % 64);
        }
        return fits;
    }
    for (uint32_t i = 0; i < count; i++) {
        fits.items[i / 64] |= (uint64_t)(of_slot[rows.items[i]] >= least) << (i % 64);
    }
    return fits;
}

orlop_bytes plugin_score(uint32_t class, orlop_u32s rows) {
    (void)class;
    uint32_t count = rows.length ? rows.length : slots;
    orlop_bytes scores = {orlop_scratch(count), count};
    for (uint32_t i = 0; i < count; i++) {
        int64_t level = of_slot[rows.length ? rows.items[i] : i];
        scores.items[i] = (uint8_t)(level < 0 ? 0 : level > 100 ? 100 : level);
    }
    return scores;
}

orlop_explanation plugin_explain(uint32_t class, orlop_u32s rows) {
    orlop_reason *reason = orlop_scratch(sizeof *reason);
    /* 1: evicting other pods does not change the label. */
    *reason = (orlop_reason){ORLOP_JOIN(ORLOP_TEXT("node(s) didn't have " KEY " of "), orlop_decimal(wanted[class])), 1};
    orlop_explanation out = {{reason, 1},
                             {orlop_scratch((rows.length + 1) * sizeof(uint32_t)), rows.length + 1},
                             {orlop_scratch(rows.length * sizeof(uint32_t)), 0}};
    for (uint32_t i = 0; i < rows.length; i++) {
        out.refs.length += of_slot[rows.items[i]] < wanted[class];
        out.offsets.items[i + 1] = out.refs.length;
    }
    return out;
}
