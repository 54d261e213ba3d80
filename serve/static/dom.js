/** @module Hands for the document: find, build, announce, put numbers into words. Knows nothing of songs or covers. */

/** @returns {HTMLElement} the element with this id; the page is ours, so it is there. */
export const byId = (id) => document.getElementById(id);

/**
 * An element with its properties, attributes (any name with a dash, and `role`), listeners (`on`) and children.
 * @param {string} tag
 * @param {Object} properties
 * @param {...(Node|string|null)} children  null and false are left out
 * @returns {HTMLElement}
 */
export function build(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

/** Says something to those who listen to the page; polite, and short enough to be heard out. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** @returns {string} minutes and seconds, as in 3:07 */
export function clock(seconds) {
  const whole = Number.isFinite(seconds) ? Math.max(0, Math.floor(seconds)) : 0;
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** @returns {string} a length of time as one says it */
export function inWords(seconds) {
  if (seconds < 1.5) return "1 second";
  if (seconds < 100) return `${Math.round(seconds)} seconds`;
  const minutes = Math.round(seconds / 60);
  return minutes === 1 ? "1 minute" : `${minutes} minutes`;
}

/** @returns {boolean} whether the visitor asked for less motion */
export const prefersCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** @returns {{title: string, artist: string, genre: string}} a track's words, with something to say where there are none */
export function words(track) {
  return {
    title: track.title || "Untitled",
    artist: track.artist || "Artist not known",
    genre: track.genre || "No genre given",
  };
}
