"""{{camel}}: a pod without the label `{{name}}` gets one; one whose label is empty is refused."""

import json

from wit_world import exports
from wit_world.exports.plugin import Verdict

LABEL = "{{name}}"

config = {}


class Lifecycle(exports.Lifecycle):
    def init(self, given):
        # The manifest's schema has been checked.
        config.update(json.loads(given))

    def self_test(self):
        pass


class Plugin(exports.Plugin):
    def mutate(self, requests):
        return [mutate(request) for request in requests]

    def validate(self, requests):
        return [validate(request) for request in requests]


def labels_of(request):
    """The labels of the request's object; None where it has none."""
    pod = json.loads(request.object) if request.object else {}
    return pod.get("metadata", {}).get("labels")


def mutate(request):
    labels = labels_of(request)
    if not request.object or (labels and LABEL in labels):
        return allow()
    value = config.get("default", "nobody")
    if labels is None:
        return allow([{"op": "add", "path": "/metadata/labels", "value": {LABEL: value}}])
    return allow([{"op": "add", "path": f"/metadata/labels/{LABEL}", "value": value}])


def validate(request):
    if (labels_of(request) or {}).get(LABEL) == "":
        return forbid(request, f"the label {LABEL} must not be empty")
    return allow()


def allow(patch=None):
    return Verdict(True, json.dumps(patch).encode() if patch else b"", b"", [])


def forbid(request, why):
    """Refuses with the status and the words of Kubernetes."""
    details = {"name": request.name, "kind": request.resource}
    resource = request.resource
    if request.group:
        details["group"] = request.group
        resource = f"{resource}.{request.group}"
    status = {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "code": 403,
        "reason": "Forbidden",
        "message": f'{resource} "{request.name}" is forbidden: {why}',
        "details": details,
    }
    return Verdict(False, b"", json.dumps(status).encode(), [])
