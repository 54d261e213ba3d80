/** @module Where a new cover comes from: its sources, and the map that says which source holds which place. Draws nothing. */

import { call } from "/static/api/requests.js";

const requests = new Map();

/**
 * @param {Object} image  of a job, with `sources_url`
 * @returns {Promise<Object[]>} its sources, largest share first; each picture is asked for once
 */
export function loadSources(image) {
  const address = image.sources_url;
  if (!requests.has(address)) {
    const request = call(address).then((response) => response.json()).then((body) => body.sources);
    request.catch(() => requests.delete(address));
    requests.set(address, request);
  }
  return requests.get(address);
}

/** Which source holds each pixel: `holders` has the index of a source, or -1, row by row. */
export class SourceMap {
  constructor(width, height, holders) {
    Object.assign(this, { width, height, holders, held: new Set(holders) });
  }

  /** @returns {boolean} whether a source holds any place at all; a small share may be blended in everywhere and lead nowhere */
  holds(index) {
    return this.held.has(index);
  }

  /**
   * @param {number} x  0 (left) to 1 (right)
   * @param {number} y  0 (top) to 1 (bottom)
   * @returns {number} index of the source that holds this place, or -1
   */
  at(x, y) {
    const column = Math.min(Math.max(Math.floor(x * this.width), 0), this.width - 1);
    const row = Math.min(Math.max(Math.floor(y * this.height), 0), this.height - 1);
    return this.holders[row * this.width + column];
  }
}

async function pixelsOf(address) {
  const blob = await (await call(address)).blob();
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/**
 * @param {Object} image  of a job, with `sources_map_url`
 * @param {Object[]} sources  each with its `colour` on the map, as "#rrggbb"
 * @returns {Promise<SourceMap>}
 */
export async function loadMap(image, sources) {
  const { data, width, height } = await pixelsOf(image.sources_map_url);
  const indices = new Map(sources.map(({ colour }, index) => [Number.parseInt(colour.slice(1), 16), index]));
  const holders = new Int16Array(width * height);
  for (let at = 0; at < holders.length; at += 1) {
    holders[at] = indices.get((data[4 * at] << 16) | (data[4 * at + 1] << 8) | data[4 * at + 2]) ?? -1;
  }
  return new SourceMap(width, height, holders);
}
