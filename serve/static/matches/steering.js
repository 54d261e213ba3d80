/** @module What new covers are to be made from: sources chosen among the matches, and the match whose colours lead. Draws nothing. */

const listeners = [];
let allowed = false;
let sources = new Map();
let palette = null;

const idOf = (match) => match.track.song_id;
const changed = () => listeners.forEach((listener) => listener());

/** @param {() => void} listener  called after each change */
export const onSteering = (listener) => listeners.push(listener);

/** @returns {boolean} whether the generator that serves takes such choices */
export const steerable = () => allowed;

/** @returns {{sources: Object[], palette: Object|null}} matches; no sources means all of them */
export const chosen = () => ({ sources: [...sources.values()].sort((a, b) => a.rank - b.rank), palette });

export const isSource = (match) => sources.has(idOf(match));
export const isPalette = (match) => palette !== null && idOf(palette) === idOf(match);

export function toggleSource(match) {
  if (!sources.delete(idOf(match))) sources.set(idOf(match), match);
  changed();
}

export function togglePalette(match) {
  palette = isPalette(match) ? null : match;
  changed();
}

export function clearSources() {
  sources = new Map();
  changed();
}

/**
 * Begins anew, for another song.
 * @param {boolean} on  whether choices can be made at all
 */
export function resetSteering(on) {
  allowed = on;
  sources = new Map();
  palette = null;
  changed();
}
