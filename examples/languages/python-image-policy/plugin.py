"""ImagePolicy: every image of a Pod has a tag other than `latest`, or a digest. Namespaces in `exempt` may do as they like."""

import json
import re

from wit_world import exports
from wit_world.exports.plugin import Verdict

# A name, whose last part has no colon but that of the tag; the host before it may have a port.
IMAGE = re.compile(r"(?:.*/)?[^/:@]+(?::(?P<tag>[^/@]+))?(?P<digest>@sha256:[0-9a-f]{64})?")

exempt = set()


class Lifecycle(exports.Lifecycle):
    def init(self, config):
        exempt.update(json.loads(config).get("exempt", []))

    def self_test(self):
        for image, good in {"a": False, "a:latest": False, "r:5000/a": False, "r:5000/a:1": True}.items():
            assert is_pinned(image) == good, image


class Plugin(exports.Plugin):
    def mutate(self, requests):
        raise NotImplementedError("manifest.json names no phase `mutate`")

    def validate(self, requests):
        return [validate(request) for request in requests]


def is_pinned(image):
    found = IMAGE.fullmatch(image)
    return bool(found) and (found["digest"] is not None or found["tag"] not in (None, "latest"))


def validate(request):
    spec = json.loads(request.object).get("spec", {})
    containers = spec.get("initContainers", []) + spec.get("containers", [])
    loose = [c for c in containers if not is_pinned(c.get("image", ""))]
    if not loose or request.namespace in exempt:
        return Verdict(True, b"", b"", [])
    names = ", ".join(f"{c.get('image', '')} (container {c['name']})" for c in loose)
    status = {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "code": 403,
        "reason": "Forbidden",
        "message": f'pods "{request.name}" is forbidden: images must have a tag other than latest, or a digest: {names}',
        "details": {"name": request.name, "kind": "pods"},
    }
    return Verdict(False, b"", json.dumps(status).encode(), [])
