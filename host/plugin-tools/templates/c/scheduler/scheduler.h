/* The interface `orlop:scheduler/plugin` in C. What each field and function means is said in wit/scheduler.wit.
 *
 * A plugin defines `plugin_sync`, `plugin_prepare` and `plugin_filter`. The rest has an answer in scheduler.c that a
 * plugin may replace by defining the function itself. */
#ifndef ORLOP_SCHEDULER_H
#define ORLOP_SCHEDULER_H

#include "orlop.h"

/* Columns */
enum {
    COLUMN_ALLOCATABLE_CPU = 1,
    COLUMN_ALLOCATABLE_MEMORY = 2,
    COLUMN_ALLOCATABLE_EPHEMERAL_STORAGE = 3,
    COLUMN_ALLOCATABLE_PODS = 4,
    COLUMN_REQUESTED_CPU = 5,
    COLUMN_REQUESTED_MEMORY = 6,
    COLUMN_REQUESTED_EPHEMERAL_STORAGE = 7,
    COLUMN_REQUESTED_PODS = 8,
    COLUMN_NAME = 32,
    COLUMN_UNSCHEDULABLE = 33,
    COLUMN_TAINTS = 34,
    COLUMN_ZONE = 35,
    COLUMN_LABELS = 64,
    COLUMN_IMAGES = 65,
    COLUMN_PODS = 68,
};

/* Dictionaries */
enum { DICTIONARY_NAMES = 1, DICTIONARY_LABELS = 2, DICTIONARY_TAINTS = 3, DICTIONARY_ZONES = 4, DICTIONARY_PODS = 8 };

/* Flags of `orlop_prepared` */
enum { PASSES_ALL = 1, SCORES_NONE = 2, FITS_NOWHERE = 4, EVICTION_CANNOT_HELP = 8 };

typedef struct {
    uint32_t dictionary;
    uint32_t first;
    orlop_strings entries;
} orlop_dictionary;

typedef struct {
    uint32_t column;
    orlop_s64s values;
} orlop_s64_column;

typedef struct {
    uint32_t column;
    orlop_u32s values;
} orlop_u32_column;

typedef struct {
    uint32_t column;
    orlop_u32s offsets;
    orlop_u64s values;
} orlop_list_column;

ORLOP_LIST(orlop_dictionary, orlop_dictionaries);
ORLOP_LIST(orlop_s64_column, orlop_s64_columns);
ORLOP_LIST(orlop_u32_column, orlop_u32_columns);
ORLOP_LIST(orlop_list_column, orlop_list_columns);

typedef struct {
    bool full;
    uint32_t slots;
    orlop_u32s rows;
    orlop_u64s live;
    orlop_dictionaries dictionaries;
    orlop_s64_columns s64_columns;
    orlop_u32_columns u32_columns;
    orlop_list_columns list_columns;
} orlop_delta;

typedef struct {
    uint64_t checksum;
    orlop_u32s stale;
} orlop_synced;

typedef struct {
    uint32_t flags;
    orlop_string message;
} orlop_prepared;

typedef struct {
    orlop_string text;
    uint32_t code;
} orlop_reason;

ORLOP_LIST(orlop_reason, orlop_reasons);

typedef struct {
    orlop_reasons reasons;
    orlop_u32s offsets;
    orlop_u32s refs;
} orlop_explanation;

/* Functions that answer `bool` answer false with `*error` set where the WIT says `result<_, string>`. Memory of answers is
 * scratch memory, or the plugin's own; the host copies it. */
void plugin_sync(const orlop_delta *delta, orlop_synced *synced);
bool plugin_prepare(uint32_t class, orlop_string pod, orlop_prepared *prepared, orlop_string *error);
void plugin_release(uint32_t class);
orlop_u64s plugin_filter(uint32_t class, orlop_u32s rows);
orlop_bytes plugin_score(uint32_t class, orlop_u32s rows);
orlop_s64s plugin_score_raw(uint32_t class, orlop_u32s rows);
orlop_bytes plugin_normalize(uint32_t class, orlop_u64s feasible, orlop_s64s raw);
orlop_explanation plugin_explain(uint32_t class, orlop_u32s rows);

#endif
