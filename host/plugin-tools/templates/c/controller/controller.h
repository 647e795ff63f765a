/* The interface `orlop:controller/reconciler` in C. What requests and plans hold is said in wit/controller.wit. */
#ifndef ORLOP_CONTROLLER_H
#define ORLOP_CONTROLLER_H

#include "orlop.h"

/* Decides about one key. `item` is JSON: the key with its objects; the answer is JSON: the plan, `{}` where nothing is to be
 * done. `now`: milliseconds since 1970-01-01T00:00:00Z. The answer's memory is scratch memory, or the plugin's own. */
orlop_string plugin_reconcile(orlop_string item, int64_t now);

#endif
