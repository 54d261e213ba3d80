/** @module What lies over a large cover: shade on all but the places of one source, and the crosshair that arrow keys move. */

import { build } from "/static/document/dom.js";

const SHADE = [5, 11, 10];

function outlineColour(canvas) {
  const hex = getComputedStyle(canvas).getPropertyValue("--spot").trim();
  return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
}

/** Red, green, blue, alpha (0 to 255) as one number in the byte order of this machine. */
const packed = (channels) => new Uint32Array(Uint8Array.from(channels).buffer)[0];

function atEdge(map, at) {
  const { width, holders } = map;
  const column = at % width;
  const held = holders[at];
  return (column > 0 && holders[at - 1] !== held) || (column < width - 1 && holders[at + 1] !== held)
    || (at >= width && holders[at - width] !== held) || (at + width < holders.length && holders[at + width] !== held);
}

/** @returns {HTMLCanvasElement} an empty overlay */
export const buildOverlay = () => build("canvas", { className: "overlay", "aria-hidden": "true" });

/**
 * Shades all of a cover but the places of one source, and outlines those.
 * @param {HTMLCanvasElement} canvas
 * @param {SourceMap} map
 * @param {number} index  of the source; -1 clears the overlay
 * @param {number} strength  of the shade, 0 to 1
 */
export function light(canvas, map, index, strength) {
  canvas.dataset.source = String(index);
  if (canvas.width !== map.width || canvas.height !== map.height) [canvas.width, canvas.height] = [map.width, map.height];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (index < 0) return;
  const picture = context.createImageData(map.width, map.height);
  const pixels = new Uint32Array(picture.data.buffer);
  const [shade, outline] = [packed([...SHADE, Math.round(255 * strength)]), packed([...outlineColour(canvas), 255])];
  for (let at = 0; at < pixels.length; at += 1) {
    if (map.holders[at] !== index) pixels[at] = shade;
    else if (atEdge(map, at)) pixels[at] = outline;
  }
  context.putImageData(picture, 0, 0);
}

/** A place on the cover, moved by arrow keys: one step, or four with Shift. */
export class Crosshair {
  constructor(steps = 32) {
    this.step = 1 / steps;
    [this.x, this.y] = [0.5, 0.5];
    this.element = build("span", { className: "crosshair", hidden: true, "aria-hidden": "true" });
  }

  /** @returns {boolean} whether the key moves the crosshair */
  move(event) {
    const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (!right && !down) return false;
    const length = this.step * (event.shiftKey ? 4 : 1);
    this.x = Math.min(Math.max(this.x + right * length, 0), 1);
    this.y = Math.min(Math.max(this.y + down * length, 0), 1);
    return true;
  }

  show() {
    this.element.hidden = false;
    this.element.style.left = `${100 * this.x}%`;
    this.element.style.top = `${100 * this.y}%`;
  }

  hide() {
    this.element.hidden = true;
  }
}
