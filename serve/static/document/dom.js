/** @module The document: find, build, announce, put numbers into words. Knows nothing of songs or covers. */

/** @returns {HTMLElement} the element with this id; the page is ours, so it is there. */
export const byId = (id) => document.getElementById(id);

/**
 * An element with its properties, attributes (any name with a dash, and `role`), listeners (`on`) and children.
 * @param {string} tag
 * @param {Object} properties
 * @param {...(Node|string|null)} children  null, undefined and false are left out
 * @returns {HTMLElement}
 */
export function build(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

/** Puts a short text where screen readers announce it politely; an open dialog has its own place, the rest is inert then. */
export function announce(text) {
  const place = document.querySelector("dialog[open] [role=status]") ?? byId("announcer");
  place.textContent = text;
}

/** @returns {string} a share of 1 in per cent, as in 14 %; what is above 0 is never rounded to it */
export function percent(share, digits = 0) {
  const least = 10 ** -digits;
  if (share > 0 && 100 * share < least) return `under ${least}\u00a0%`;
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}

/** @returns {string} minutes and seconds, as in 3:07 */
export function clock(seconds) {
  const whole = Number.isFinite(seconds) ? Math.max(0, Math.floor(seconds)) : 0;
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** @returns {string} a small count as a word */
export const countWord = (count) => ({ 0: "no", 1: "one", 2: "two", 3: "three", 4: "four", 100: "hundred" })[count] ?? String(count);

/** @returns {string} a size in bytes as megabytes, the last digit rounded down */
export const megabytes = (bytes) => `${Math.floor(bytes / 1e5) / 10} MB`;

/** @returns {string} a length of time in words */
export function inWords(seconds) {
  if (seconds < 1.5) return "1 second";
  if (seconds < 100) return `${Math.round(seconds)} seconds`;
  const [minutes, hours, days] = [60, 3_600, 86_400].map((unit) => Math.round(seconds / unit));
  if (minutes < 100) return minutes === 1 ? "1 minute" : `${minutes} minutes`;
  return hours < 48 ? `${hours} hours` : `${days} days`;
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

const WHEN = { weekday: "short", hour: "2-digit", minute: "2-digit" };

/** @returns {string} a day and time, as in Sun 14:05, in the visitor's own time */
export const dayAndTime = (text) => new Date(text).toLocaleString("en-GB", WHEN).replace(",", "");

/** Scrolls an element into sight, at once for those who asked for less motion. */
export const bringUp = (element) => element.scrollIntoView({ block: "start", behavior: prefersCalm() ? "auto" : "smooth" });
