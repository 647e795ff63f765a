"""{{camel}}: a pod with the annotation `{{name}}: N` fits only nodes whose label `{{name}}` is a number of at least N;
the higher the label (up to 100), the better."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.plugin import Explanation, Prepared, Reason, Synced

KEY = "{{name}}"

# Numbers of the interface; see wit/scheduler.wit.
LABELS_COLUMN = 64
LABELS_DICTIONARY = 2
PASSES_ALL = 1
SCORES_NONE = 2
EVICTION_CANNOT_HELP = 1

# What a node without the label has, so that it is less than any number asked for.
NONE = -(2**63)

# The mirror: the level of each entry of the dictionary of labels, and of each slot.
of_label = []
of_slot = []

# What the pods of a class ask for, by class.
wanted = {}


class Lifecycle(exports.Lifecycle):
    def init(self, config):
        pass

    def self_test(self):
        pass


class Plugin(exports.Plugin):
    def sync(self, delta):
        if delta.full:
            of_label.clear()
            of_slot.clear()
        of_slot.extend([NONE] * (delta.slots - len(of_slot)))
        for dictionary in delta.dictionaries:
            if dictionary.dictionary == LABELS_DICTIONARY:
                of_label.extend(level(label) for label in dictionary.entries)
        for column in delta.list_columns:
            if column.column == LABELS_COLUMN:
                for i, row in enumerate(delta.rows):
                    labels = column.values[column.offsets[i] : column.offsets[i + 1]]
                    of_slot[row] = max((of_label[label] for label in labels), default=NONE)
        # No checksum, and no class is stale.
        return Synced(0, [])

    def prepare(self, class_, pod):
        text = json.loads(pod).get("metadata", {}).get("annotations", {}).get(KEY)
        if text is None:
            # Such pods cost nothing: neither filter nor score is called for them.
            return Prepared(PASSES_ALL | SCORES_NONE, "")
        try:
            wanted[class_] = int(text)
        except ValueError:
            raise Err(f"annotation {KEY}: `{text}` is no number") from None
        return Prepared(0, "")

    def release(self, class_):
        wanted.pop(class_, None)

    def filter(self, class_, rows):
        least = wanted[class_]
        fits = [level >= least for level in levels(rows)]
        return [
            sum(1 << i for i, fit in enumerate(fits[word : word + 64]) if fit)
            for word in range(0, len(fits), 64)
        ]

    def score(self, class_, rows):
        return bytes(min(max(level, 0), 100) for level in levels(rows))

    def explain(self, class_, rows):
        least = wanted[class_]
        offsets = [0]
        for level in levels(rows):
            offsets.append(offsets[-1] + (level < least))
        reason = Reason(f"node(s) didn't have {KEY} of {least}", EVICTION_CANNOT_HELP)
        return Explanation([reason], offsets, [0] * offsets[-1])

    # Called only where manifest.json says so in `normalize`.
    def score_raw(self, class_, rows):
        raise NotImplementedError("score_raw")

    def normalize(self, class_, feasible, raw):
        raise NotImplementedError("normalize")


def level(label):
    """What a label `key=value` says; asked once for each that the cluster has."""
    key, _, value = label.partition("=")
    if key != KEY:
        return NONE
    try:
        return int(value)
    except ValueError:
        return NONE


def levels(rows):
    """Of the given rows, of all where none are given."""
    return [of_slot[row] for row in rows] if rows else of_slot
