// time-to-live: a Pod with the annotation `time-to-live: SECONDS` is deleted so many seconds after it was created.

import { fromBytes, toBytes } from "./orlop.js";

const ANNOTATION = "time-to-live";

export const lifecycle = {
  init() {},
  selfTest() {},
};

export const reconciler = {
  reconcile(request) {
    const { now, items } = fromBytes(request);
    return toBytes({ plans: items.map((item) => plan(item, now)) });
  },
};

function plan({ key, object }, now) {
  const { annotations, creationTimestamp, deletionTimestamp, uid } = object?.metadata ?? {};
  const text = annotations?.[ANNOTATION];
  if (text === undefined || deletionTimestamp) return {};
  if (!/^\d{1,9}$/.test(text)) {
    const message = `annotation ${ANNOTATION}: \`${text}\` is no number of seconds; the Pod stays`;
    return { writes: [{ op: "event", event: { type: "Warning", reason: "InvalidTimeToLive", message } }] };
  }
  const left = Date.parse(creationTimestamp) + Number(text) * 1000 - now;
  if (left > 0) return { afterMilliseconds: left };
  const event = { type: "Normal", reason: "TimeToLive", message: `deleted after ${text} s` };
  return {
    writes: [{ op: "delete", apiVersion: "v1", resource: "pods", ...key, uid, ignore: ["NotFound"], event }],
  };
}
