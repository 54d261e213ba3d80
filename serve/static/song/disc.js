/** @module The disc: a spectrogram bent round a centre, time anticlockwise so that it passes the needle as the disc turns clockwise. */

const OUTER = 0.985;
const INNER = 0.4;

/** The disc's colours, from silence to loud, as the style sheet names them. */
function discColours() {
  const style = getComputedStyle(document.documentElement);
  return ["--vinyl", "--vinyl-2", "--vinyl-3", "--vinyl-4"].map((name) => {
    const hex = style.getPropertyValue(name).trim();
    return [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
  });
}

/** 256 colours between them. */
function ramp() {
  const stops = discColours();
  return Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (stops.length - 1);
    const at = Math.min(Math.floor(place), stops.length - 2);
    return stops[at].map((from, channel) => from + (stops[at + 1][channel] - from) * (place - at));
  });
}

function grooves(context, size) {
  const half = size / 2;
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--vinyl");
  context.beginPath();
  context.arc(half, half, half * OUTER, 0, 2 * Math.PI);
  context.fill();
}

/** The brightness of the picture at each of its points, stretched to 0..255. */
function levels(picture) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [2 * picture.naturalWidth, 4 * picture.naturalHeight]; // drawn large, its edges are soft
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  const grey = new Float32Array(width * height);
  let [low, high] = [255, 0];
  for (let at = 0; at < grey.length; at += 1) {
    grey[at] = 0.3 * data[4 * at] + 0.59 * data[4 * at + 1] + 0.11 * data[4 * at + 2];
    low = Math.min(low, grey[at]);
    high = Math.max(high, grey[at]);
  }
  const span = Math.max(high - low, 1);
  return { width, height, at: (x, y) => Math.round(((grey[y * width + x] - low) / span) * 255) };
}

function bend(context, size, source) {
  const colours = ramp();
  const half = size / 2;
  const image = context.getImageData(0, 0, size, size);
  for (let y = 0; y < size; y += 1) {
    for (let x = 0; x < size; x += 1) {
      const radius = Math.hypot(x - half, y - half) / half;
      if (radius > OUTER - 0.02 || radius < INNER) continue;
      const turn = (Math.atan2(half - x, half - y) / (2 * Math.PI) + 1) % 1; // 0 at the needle, anticlockwise
      const pitch = (radius - INNER) / (OUTER - 0.02 - INNER); // bass at the label, treble at the rim
      const level = source.at(
        Math.min(Math.floor(turn * source.width), source.width - 1),
        Math.min(Math.floor((1 - pitch) * source.height), source.height - 1),
      );
      image.data.set(colours[level], 4 * (y * size + x));
    }
  }
  context.putImageData(image, 0, 0);
}

/**
 * Draws the disc.
 * @param {HTMLCanvasElement} canvas  square
 * @param {HTMLImageElement|null} picture  a loaded spectrogram, time to the right and pitch upwards; null leaves it blank
 */
export function drawDisc(canvas, picture) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.clearRect(0, 0, canvas.width, canvas.height);
  grooves(context, canvas.width);
  if (picture) bend(context, canvas.width, levels(picture));
}
