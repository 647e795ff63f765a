/* The interface `orlop:admission/plugin` in C. What each field means is said in wit/admission.wit.
 *
 * A plugin defines the function of each phase that its manifest names. */
#ifndef ORLOP_ADMISSION_H
#define ORLOP_ADMISSION_H

#include "orlop.h"

enum { OPERATION_CREATE = 1, OPERATION_UPDATE = 2, OPERATION_DELETE = 3, OPERATION_CONNECT = 4 };

typedef struct {
    uint32_t operation;
    orlop_string group;
    orlop_string version;
    orlop_string resource;
    orlop_string subresource;
    orlop_string kind;
    orlop_string namespace;
    orlop_string name;
    bool dry_run;
    orlop_string object;
    orlop_string old_object;
    orlop_strings context;
    orlop_string attributes;
    uint64_t seed;
} orlop_request;

typedef struct {
    bool allowed;
    orlop_string patch;
    orlop_string status;
    orlop_strings warnings;
} orlop_verdict;

/* `*verdict` allows without a patch when the function is called. Its memory is scratch memory, or the plugin's own. */
void plugin_mutate(const orlop_request *request, orlop_verdict *verdict);
void plugin_validate(const orlop_request *request, orlop_verdict *verdict);

/* Refuses, with the status 403 and the words of Kubernetes: `pods "web" is forbidden: ` and the reason. */
void orlop_forbid(const orlop_request *request, orlop_string reason, orlop_verdict *verdict);

#endif
