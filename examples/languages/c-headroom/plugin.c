/* Headroom: a share of every node's CPU and memory stays free, 20 % of what is allocatable unless the configuration has
 * another `percent`. Pods that request neither go anywhere.
 *
 * The filter runs over all nodes at once, 64 to a word, without a branch. */
#include "scheduler.h"

static int64_t percent = 20;

/* The mirror: what is left of each slot before its headroom begins; milli-CPU and bytes. */
static int64_t *cpu, *memory;
static uint32_t slots, cpu_room, memory_room;

/* What the pods of a class request, by class; NONE fits wherever. */
#define NONE INT64_MIN
typedef struct {
    int64_t cpu, memory;
} request;
static request *wanted;
static uint32_t wanted_room;

bool plugin_init(orlop_string config, orlop_string *error) {
    (void)error; /* the manifest's schema has been checked */
    orlop_string value;
    if (ORLOP_GET(config, &value, "percent")) {
        orlop_number(value, &percent);
    }
    return true;
}

static const int64_t *column(const orlop_delta *delta, uint32_t number) {
    for (uint32_t i = 0; i < delta->s64_columns.length; i++) {
        if (delta->s64_columns.items[i].column == number) {
            return delta->s64_columns.items[i].values.items;
        }
    }
    orlop_panic(ORLOP_TEXT("a column of the manifest did not come"));
}

/* Divided first, so that no product overflows. */
static int64_t usable(int64_t allocatable) {
    return allocatable / 100 * (100 - percent) + allocatable % 100 * (100 - percent) / 100;
}

void plugin_sync(const orlop_delta *delta, orlop_synced *synced) {
    (void)synced; /* no checksum, and no class is stale */
    cpu = orlop_grow(cpu, &cpu_room, delta->slots, sizeof *cpu);
    memory = orlop_grow(memory, &memory_room, delta->slots, sizeof *memory);
    slots = delta->slots;
    if (delta->rows.length == 0) {
        return;
    }
    const int64_t *all_cpu = column(delta, COLUMN_ALLOCATABLE_CPU), *used_cpu = column(delta, COLUMN_REQUESTED_CPU);
    const int64_t *all_memory = column(delta, COLUMN_ALLOCATABLE_MEMORY),
                  *used_memory = column(delta, COLUMN_REQUESTED_MEMORY);
    for (uint32_t i = 0; i < delta->rows.length; i++) {
        uint32_t slot = delta->rows.items[i];
        cpu[slot] = usable(all_cpu[i]) - used_cpu[i];
        memory[slot] = usable(all_memory[i]) - used_memory[i];
    }
}

static int64_t requested(orlop_string pod, const char *resource) {
    orlop_string value;
    int64_t amount;
    bool some = ORLOP_GET(pod, &value, "computed", "requests", resource) && orlop_number(value, &amount) && amount > 0;
    return some ? amount : NONE;
}

bool plugin_prepare(uint32_t class, orlop_string pod, orlop_prepared *prepared, orlop_string *error) {
    (void)error;
    wanted = orlop_grow(wanted, &wanted_room, class + 1, sizeof *wanted);
    wanted[class] = (request){requested(pod, "cpu"), requested(pod, "memory")};
    if (wanted[class].cpu == NONE && wanted[class].memory == NONE) {
        prepared->flags = PASSES_ALL;
    }
    return true;
}

static uint64_t fits(request of, uint32_t slot) { return (cpu[slot] >= of.cpu) & (memory[slot] >= of.memory); }

orlop_u64s plugin_filter(uint32_t class, orlop_u32s rows) {
    uint32_t count = rows.length ? rows.length : slots;
    orlop_u64s out = {orlop_scratch((count + 63) / 64 * sizeof(uint64_t)), (count + 63) / 64};
    request of = wanted[class];
    for (uint32_t word = 0; word < out.length; word++) {
        uint32_t first = word * 64, here = count - first < 64 ? count - first : 64;
        uint64_t bits = 0;
        if (rows.length) {
            for (uint32_t i = 0; i < here; i++) {
                bits |= fits(of, rows.items[first + i]) << i;
            }
        } else {
            for (uint32_t i = 0; i < here; i++) {
                bits |= fits(of, first + i) << i;
            }
        }
        out.items[word] = bits;
    }
    return out;
}

orlop_explanation plugin_explain(uint32_t class, orlop_u32s rows) {
    orlop_reason *reasons = orlop_scratch(2 * sizeof *reasons);
    /* 0: evicting other pods could help. */
    reasons[0] = (orlop_reason){ORLOP_TEXT("Too little headroom of cpu"), 0};
    reasons[1] = (orlop_reason){ORLOP_TEXT("Too little headroom of memory"), 0};
    orlop_explanation out = {{reasons, 2},
                             {orlop_scratch((rows.length + 1) * sizeof(uint32_t)), rows.length + 1},
                             {orlop_scratch(2 * rows.length * sizeof(uint32_t)), 0}};
    for (uint32_t i = 0; i < rows.length; i++) {
        uint32_t slot = rows.items[i];
        if (cpu[slot] < wanted[class].cpu) {
            out.refs.items[out.refs.length++] = 0;
        }
        if (memory[slot] < wanted[class].memory) {
            out.refs.items[out.refs.length++] = 1;
        }
        out.offsets.items[i + 1] = out.refs.length;
    }
    return out;
}
