/* JSON; see orlop.h. The host sends what is well-formed; in anything else nothing is found. */
#include "orlop.h"

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

static const char *spaces(const char *at, const char *end) {
    while (at < end && is_space(*at)) {
        at++;
    }
    return at;
}

/* The end of the value that begins at `at`. */
static const char *value_end(const char *at, const char *end) {
    uint32_t depth = 0;
    while (at < end) {
        char c = *at++;
        if (c == '"') {
            while (at < end && *at != '"') {
                at += *at == '\\' && end - at > 1 ? 2 : 1;
            }
            at += at < end;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            depth -= depth > 0;
        } else if (depth == 0) {
            while (at < end && *at != ',' && *at != '}' && *at != ']' && !is_space(*at)) {
                at++;
            }
        }
        if (depth == 0) {
            break;
        }
    }
    return at;
}

static bool member(orlop_string object, orlop_string key, orlop_string *value) {
    const char *end = object.items + object.length;
    const char *at = spaces(object.items, end);
    if (at == end || *at != '{') {
        return false;
    }
    at = spaces(at + 1, end);
    while (at < end && *at == '"') {
        const char *name = at;
        at = value_end(at, end);
        orlop_string found = {(char *)name + 1, at - name >= 2 ? (uint32_t)(at - name - 2) : 0};
        at = spaces(at, end);
        at = at < end ? spaces(at + 1, end) : end; /* the colon */
        const char *begin = at;
        at = value_end(at, end);
        if (orlop_equal(found, key)) {
            *value = (orlop_string){(char *)begin, (uint32_t)(at - begin)};
            return true;
        }
        at = spaces(at, end);
        if (at == end || *at != ',') {
            return false;
        }
        at = spaces(at + 1, end);
    }
    return false;
}

bool orlop_json_get(orlop_string json, orlop_string *value, const char *const *path) {
    for (; *path; path++) {
        orlop_string key = {(char *)*path, 0};
        while (key.items[key.length]) {
            key.length++;
        }
        if (!member(json, key, &json)) {
            return false;
        }
    }
    *value = json;
    return true;
}

bool orlop_json_next(orlop_string *rest, orlop_string *item) {
    const char *end = rest->items + rest->length;
    const char *at = spaces(rest->items, end);
    if (at == end || (*at != '[' && *at != ',')) {
        return false;
    }
    at = spaces(at + 1, end);
    if (at == end || *at == ']') {
        return false;
    }
    const char *after = value_end(at, end);
    *item = (orlop_string){(char *)at, (uint32_t)(after - at)};
    *rest = (orlop_string){(char *)after, (uint32_t)(end - after)};
    return true;
}

static bool four_digits(const char *at, const char *end, uint32_t *code) {
    if (end - at < 4) {
        return false;
    }
    *code = 0;
    for (uint32_t i = 0; i < 4; i++) {
        char c = at[i];
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16) {
            return false;
        }
        *code = *code << 4 | digit;
    }
    return true;
}

static char *utf8(char *to, uint32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xc0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        *to++ = (char)(0xe0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    } else {
        *to++ = (char)(0xf0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3f));
        *to++ = (char)(0x80 | (code >> 6 & 0x3f));
        *to++ = (char)(0x80 | (code & 0x3f));
    }
    return to;
}

/* What stands after a backslash; NULL where nothing can. */
static const char *escape(const char *at, const char *end, char **to) {
    static const char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    for (uint32_t i = 0; names[i]; i++) {
        if (names[i] == *at) {
            *(*to)++ = meanings[i];
            return at + 1;
        }
    }
    uint32_t code, low;
    if (*at != 'u' || !four_digits(at + 1, end, &code)) {
        return NULL;
    }
    at += 5;
    bool paired = code >= 0xd800 && code < 0xdc00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u' &&
                  four_digits(at + 2, end, &low) && low >= 0xdc00 && low < 0xe000;
    if (paired) {
        code = 0x10000 + ((code - 0xd800) << 10 | (low - 0xdc00));
        at += 6;
    }
    *to = utf8(*to, code >= 0xd800 && code < 0xe000 ? 0xfffd : code);
    return at;
}

bool orlop_json_text(orlop_string value, orlop_string *text) {
    if (value.length < 2 || value.items[0] != '"' || value.items[value.length - 1] != '"') {
        return false;
    }
    const char *at = value.items + 1, *end = value.items + value.length - 1;
    /* No escape is shorter than what it stands for. */
    char *out = orlop_scratch(value.length), *to = out;
    while (at < end) {
        if (*at != '\\') {
            *to++ = *at++;
        } else if (end - at < 2 || !(at = escape(at + 1, end, &to))) {
            return false;
        }
    }
    *text = (orlop_string){out, (uint32_t)(to - out)};
    return true;
}

orlop_string orlop_json_quote(orlop_string text) {
    static const char digits[] = "0123456789abcdef";
    char *out = orlop_scratch((size_t)text.length * 6 + 2), *to = out;
    *to++ = '"';
    for (uint32_t i = 0; i < text.length; i++) {
        uint8_t c = (uint8_t)text.items[i];
        if (c == '"' || c == '\\') {
            *to++ = '\\';
            *to++ = (char)c;
        } else if (c < 0x20) {
            memcpy(to, "\\u00", 4);
            to[4] = digits[c >> 4];
            to[5] = digits[c & 15];
            to += 6;
        } else {
            *to++ = (char)c;
        }
    }
    *to++ = '"';
    return (orlop_string){out, (uint32_t)(to - out)};
}
