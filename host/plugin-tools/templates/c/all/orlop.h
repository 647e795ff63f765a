/* What every plugin in C needs: types as they cross the boundary, memory, text, JSON, the log.
 *
 * The structures have the layout of WebAssembly's canonical ABI, which for wasm32 is C's own: so lists and
 * records of the WIT are used as they are, without a copy and without a generator. */
#ifndef ORLOP_H
#define ORLOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORLOP_EXPORT(name) __attribute__((export_name(name)))
/* For functions that a plugin may replace by its own. */
#define ORLOP_DEFAULT __attribute__((weak))

/* `list<T>` */
#define ORLOP_LIST(type, name) \
    typedef struct { \
        type *items; \
        uint32_t length; \
    } name

ORLOP_LIST(uint8_t, orlop_bytes);
ORLOP_LIST(uint32_t, orlop_u32s);
ORLOP_LIST(uint64_t, orlop_u64s);
ORLOP_LIST(int64_t, orlop_s64s);
/* `string`, and `list<u8>` where it is JSON: UTF-8, without a zero at its end. */
ORLOP_LIST(char, orlop_string);
ORLOP_LIST(orlop_string, orlop_strings);

/* The lifecycle. `*error` is the reason where the answer is false. lifecycle.c has these for a plugin that does not
 * define them. */
bool plugin_init(orlop_string config, orlop_string *error);
bool plugin_self_test(orlop_string *error);

/* Memory until the end of the call, zeroed. Arguments and answers live there. */
void *orlop_scratch(size_t size);

/* Memory until it is freed, zeroed. Memory comes in powers of two; what is freed is used again. */
void *orlop_new(size_t size);
void orlop_free(void *memory);

/* Makes room for `wanted` items of `size` bytes; new items are zero. `capacity` is the number that there is room for. */
void *orlop_grow(void *memory, uint32_t *capacity, uint32_t wanted, size_t size);

/* Ends the call; called by the glue after the host took the answer. */
void orlop_end_call(void);

/* Text. A string from a literal; one of several; a number in decimal; a copy until it is freed by `orlop_free(copy.items)`. */
#define ORLOP_TEXT(literal) ((orlop_string){(char *)(literal), sizeof(literal) - 1})
#define ORLOP_JOIN(...) \
    orlop_join((const orlop_string[]){__VA_ARGS__}, sizeof((orlop_string[]){__VA_ARGS__}) / sizeof(orlop_string))
orlop_string orlop_join(const orlop_string *parts, uint32_t count);
orlop_string orlop_decimal(int64_t number);
orlop_string orlop_keep(orlop_string text);
bool orlop_equal(orlop_string a, orlop_string b);
bool orlop_starts_with(orlop_string text, orlop_string start);
orlop_string orlop_skip(orlop_string text, uint32_t count);
/* Whether the text is a whole decimal number of at most 18 digits. */
bool orlop_number(orlop_string text, int64_t *number);

/* JSON that is read stays text; a value is the part of it that says what the value is.
 *
 * `ORLOP_GET(pod, &value, "metadata", "name")` finds the value at a path of keys; false where there is none. Only objects
 * are looked into, and keys with escapes are not found. */
#define ORLOP_GET(json, value, ...) orlop_json_get((json), (value), (const char *const[]){__VA_ARGS__, NULL})
bool orlop_json_get(orlop_string json, orlop_string *value, const char *const *path);
/* The text of a JSON string; false for other values. */
bool orlop_json_text(orlop_string value, orlop_string *text);
/* The items of an array, one by one: `rest` is the array at first, then what is left of it. */
bool orlop_json_next(orlop_string *rest, orlop_string *item);
/* A text as a JSON string, with its quotes. */
orlop_string orlop_json_quote(orlop_string text);

/* Levels of the log. */
enum { ORLOP_ERROR, ORLOP_WARN, ORLOP_INFO, ORLOP_DEBUG, ORLOP_TRACE };
void orlop_log(uint32_t level, orlop_string message);

/* Writes the message to the log and traps; the host drops the instance and tells the user. */
_Noreturn void orlop_panic(orlop_string message);

/* The compiler may call these. */
void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
int memcmp(const void *a, const void *b, size_t size);

#endif
