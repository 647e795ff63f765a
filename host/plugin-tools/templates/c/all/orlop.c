/* See orlop.h. */
#include "orlop.h"

/* Memory: blocks of 2^k bytes with a header, a list of free ones for each k. */

#define SMALLEST 5
#define LARGEST 31
#define PAGE 65536u

extern uint8_t __heap_base;

typedef struct block {
    uint32_t order;
    struct block *next; /* of the free ones, or of those of this call */
    uint64_t padding;   /* 16 bytes, so that what follows is aligned */
} block;

static block *free_blocks[LARGEST + 1];
static block *of_this_call;
static uint8_t *scratch;
static uint32_t scratch_left;
static uintptr_t top;

static block *take(size_t size) {
    uint32_t order = SMALLEST;
    while (order <= LARGEST && ((size_t)1 << order) < size + sizeof(block)) {
        order++;
    }
    if (order > LARGEST) {
        orlop_panic(ORLOP_TEXT("out of memory"));
    }
    block *found = free_blocks[order];
    if (found) {
        free_blocks[order] = found->next;
    } else {
        if (!top) {
            top = ((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15;
        }
        uint64_t end = (uint64_t)top + ((uint64_t)1 << order);
        uint64_t there = (uint64_t)__builtin_wasm_memory_size(0) * PAGE;
        if (end > there) {
            /* At least 256 KiB at once, for growing is slow. */
            uint64_t pages = (end - there + PAGE - 1) / PAGE;
            pages = pages < 4 ? 4 : pages;
            if (__builtin_wasm_memory_grow(0, (size_t)pages) == (size_t)-1) {
                orlop_panic(ORLOP_TEXT("out of memory"));
            }
        }
        found = (block *)top;
        top = (uintptr_t)end;
        found->order = order;
    }
    found->next = NULL;
    return found;
}

static void give_back(block *b) {
    b->next = free_blocks[b->order];
    free_blocks[b->order] = b;
}

void *orlop_new(size_t size) {
    block *b = take(size);
    return memset(b + 1, 0, size);
}

void orlop_free(void *memory) {
    if (memory) {
        give_back((block *)memory - 1);
    }
}

void *orlop_grow(void *memory, uint32_t *capacity, uint32_t wanted, size_t size) {
    if (wanted <= *capacity) {
        return memory;
    }
    uint32_t more = wanted > UINT32_MAX / 2 ? wanted : *capacity * 2 > wanted ? *capacity * 2 : wanted;
    if (more > UINT32_MAX / size) {
        orlop_panic(ORLOP_TEXT("out of memory"));
    }
    void *grown = orlop_new(more * size);
    if (memory) {
        memcpy(grown, memory, *capacity * size);
        orlop_free(memory);
    }
    *capacity = more;
    return grown;
}

/* Scratch memory that is not zeroed; cut from blocks of at least 16 KiB. */
static void *cut(size_t size) {
    size = (size + 15) & ~(size_t)15;
    if (size > scratch_left) {
        size_t chunk = size > 16384 - sizeof(block) ? size : 16384 - sizeof(block);
        block *b = take(chunk);
        b->next = of_this_call;
        of_this_call = b;
        scratch = (uint8_t *)(b + 1);
        scratch_left = (uint32_t)chunk;
    }
    void *out = scratch;
    scratch += size;
    scratch_left -= (uint32_t)size;
    return out;
}

void *orlop_scratch(size_t size) { return memset(cut(size), 0, size); }

void orlop_end_call(void) {
    while (of_this_call) {
        block *b = of_this_call;
        of_this_call = b->next;
        give_back(b);
    }
    scratch_left = 0;
}

/* The host asks for the memory of arguments. */
ORLOP_EXPORT("cabi_realloc")
void *orlop_realloc(void *old, size_t old_size, size_t align, size_t size) {
    (void)align;
    void *out = cut(size);
    if (old) {
        memcpy(out, old, old_size < size ? old_size : size);
    }
    return out;
}

/* Text */

bool orlop_equal(orlop_string a, orlop_string b) {
    return a.length == b.length && memcmp(a.items, b.items, a.length) == 0;
}

bool orlop_starts_with(orlop_string text, orlop_string start) {
    return text.length >= start.length && memcmp(text.items, start.items, start.length) == 0;
}

orlop_string orlop_skip(orlop_string text, uint32_t count) {
    count = count < text.length ? count : text.length;
    return (orlop_string){text.items + count, text.length - count};
}

orlop_string orlop_join(const orlop_string *parts, uint32_t count) {
    orlop_string out = {NULL, 0};
    for (uint32_t i = 0; i < count; i++) {
        out.length += parts[i].length;
    }
    out.items = cut(out.length);
    char *at = out.items;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(at, parts[i].items, parts[i].length);
        at += parts[i].length;
    }
    return out;
}

orlop_string orlop_keep(orlop_string text) {
    orlop_string out = {orlop_new(text.length), text.length};
    memcpy(out.items, text.items, text.length);
    return out;
}

orlop_string orlop_decimal(int64_t number) {
    char *end = (char *)cut(24) + 24, *at = end;
    uint64_t left = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    do {
        *--at = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    if (number < 0) {
        *--at = '-';
    }
    return (orlop_string){at, (uint32_t)(end - at)};
}

bool orlop_number(orlop_string text, int64_t *number) {
    bool negative = text.length > 0 && text.items[0] == '-';
    if (negative) {
        text = orlop_skip(text, 1);
    }
    if (text.length == 0 || text.length > 18) {
        return false;
    }
    int64_t sum = 0;
    for (uint32_t i = 0; i < text.length; i++) {
        if (text.items[i] < '0' || text.items[i] > '9') {
            return false;
        }
        sum = sum * 10 + (text.items[i] - '0');
    }
    *number = negative ? -sum : sum;
    return true;
}

/* The log */

__attribute__((import_module("orlop:types/log@1.0.0"), import_name("log"))) void host_log(uint32_t level, const char *message,
                                                                                        uint32_t length);

void orlop_log(uint32_t level, orlop_string message) { host_log(level, message.items, message.length); }

_Noreturn void orlop_panic(orlop_string message) {
    orlop_log(ORLOP_ERROR, message);
    __builtin_trap();
}

/* With -mbulk-memory the first three are one instruction each. */

void *memcpy(void *restrict to, const void *restrict from, size_t size) { return __builtin_memcpy(to, from, size); }

void *memmove(void *to, const void *from, size_t size) { return __builtin_memmove(to, from, size); }

void *memset(void *to, int byte, size_t size) { return __builtin_memset(to, byte, size); }

int memcmp(const void *a, const void *b, size_t size) {
    const uint8_t *x = a, *y = b;
    for (size_t i = 0; i < size; i++) {
        if (x[i] != y[i]) {
            return x[i] < y[i] ? -1 : 1;
        }
    }
    return 0;
}
