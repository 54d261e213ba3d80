/** @module The files of a zip whose entries are stored as they are, which is how exports come. Knows no other kind. */

const END = 0x06054b50;
const ENTRY = 0x02014b50;

/**
 * @param {ArrayBuffer} buffer  a zip without compression
 * @returns {Map<string, Uint8Array>} its files by name
 */
export function filesOf(buffer) {
  const view = new DataView(buffer);
  let end = buffer.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== END) end -= 1;
  if (end < 0) throw new Error("The server's answer is no zip file.");
  const files = new Map();
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0 && view.getUint32(at, true) === ENTRY; left -= 1) {
    const [size, name, extra, comment] = [[24, 4], [28, 2], [30, 2], [32, 2]].map(([from, bytes]) => (bytes === 4 ? view.getUint32(at + from, true) : view.getUint16(at + from, true)));
    const header = view.getUint32(at + 42, true);
    const begin = header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
    files.set(new TextDecoder().decode(new Uint8Array(buffer, at + 46, name)), new Uint8Array(buffer, begin, size));
    at += 46 + name + extra + comment;
  }
  return files;
}
