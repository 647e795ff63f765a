// JSON as it crosses the boundary: UTF-8 in an Uint8Array. The engine has no TextDecoder.

export function fromBytes(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 8192) {
    text += String.fromCharCode(...bytes.subarray(i, i + 8192));
  }
  return JSON.parse(/[\x80-\xff]/.test(text) ? decodeURIComponent(escape(text)) : text);
}

export function toBytes(value) {
  return Uint8Array.from(unescape(encodeURIComponent(JSON.stringify(value))), (c) => c.charCodeAt(0));
}
