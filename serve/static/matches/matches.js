/** @module The nearest covers: a grid in order, a plate that names the one pointed at, the genres among them; each may be chosen as a source. */

import { showPicture } from "/static/api/requests.js";
import { build, byId, words } from "/static/document/dom.js";
import { walkable } from "/static/document/grid.js";
import { chosen, isPalette, isSource, onSteering, steerable, togglePalette, toggleSource } from "/static/matches/steering.js";

const LARGE = 4;
const NAMED_GENRES = 6;
const tiles = new Map();

const mode = () => byId("modes").querySelector("input:checked").value;

function score(match) {
  const bar = build("span", { className: "score-bar" });
  bar.style.setProperty("--score", String(Math.min(Math.max(match.score, 0), 1)));
  return build("span", { className: "score" }, bar, build("span", { className: "score-number" }, match.score.toFixed(2)));
}

/** @returns {HTMLElement} rank, score, title, artist and genre of a match */
export function describe(match) {
  const { title, artist, genre } = words(match.track);
  return build("div", { className: "described" },
    build("span", { className: "rank" }, String(match.rank)),
    build("span", { className: "described-title" }, title),
    build("span", { className: "described-artist" }, `${artist}, ${genre}`),
    score(match));
}

function label(match) {
  const { title, artist, genre } = words(match.track);
  const chosenAs = `${isSource(match) ? ". Used as source" : ""}${isPalette(match) ? ". Its colours lead" : ""}`;
  return `${match.rank}. ${title} by ${artist}. ${genre}. Closeness ${match.score.toFixed(2)}${chosenAs}`;
}

/** Marks what is chosen. A tile is a toggle only while pressing it chooses. */
function mark() {
  byId("modes").hidden = !steerable();
  byId("covers").classList.toggle("narrowed", chosen().sources.length > 0);
  for (const [match, button] of tiles) {
    button.classList.toggle("source-of", isSource(match));
    button.classList.toggle("palette-of", isPalette(match));
    button.setAttribute("aria-label", label(match));
    if (mode() === "open") button.removeAttribute("aria-pressed");
    else button.setAttribute("aria-pressed", String(mode() === "source" ? isSource(match) : isPalette(match)));
  }
}

function tile(match, onOpen) {
  const { title, artist } = words(match.track);
  const image = build("img", { alt: "" });
  showPicture(image, `${match.cover_url}?size=${match.rank <= LARGE ? 384 : 128}`);
  const show = () => byId("plate").replaceChildren(describe(match));
  const button = build("button", {
    type: "button", "data-tile": "", title: `${title}, ${artist}`,
    on: { focus: show, pointerenter: show, click: () => ({ open: onOpen, source: toggleSource, palette: togglePalette })[mode()](match) },
  }, image);
  tiles.set(match, button);
  return build("li", { className: match.rank <= LARGE ? "large" : "" }, button);
}

function countGenres(matches) {
  const counts = new Map();
  for (const { track } of matches) {
    const { genre } = words(track);
    counts.set(genre, (counts.get(genre) ?? 0) + 1);
  }
  const sorted = [...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
  const rest = sorted.slice(NAMED_GENRES).reduce((sum, [, count]) => sum + count, 0);
  return rest ? [...sorted.slice(0, NAMED_GENRES), ["Others", rest]] : sorted;
}

function genreBar(matches) {
  const bar = build("div", { className: "genre-bar", "aria-hidden": "true" });
  const list = build("ul", { className: "genre-list", "aria-label": "Genres among the nearest covers" });
  for (const [genre, count] of countGenres(matches)) {
    const part = build("span");
    part.style.flexGrow = String(count);
    bar.append(part);
    list.append(build("li", {}, genre, " ", build("b", {}, String(count))));
  }
  return [bar, list];
}

/**
 * Lays out the matches of a song.
 * @param {Object[]} matches  nearest first
 * @param {Object|null} release  to say of how many
 * @param {(match: Object) => void} onOpen
 */
export function showMatches(matches, release, onOpen) {
  byId("matches-title").textContent = matches.length === 100 ? "The nearest hundred" : `The nearest ${matches.length}`;
  byId("matches-eyebrow").textContent = release ? `Of ${release.covers.toLocaleString("en")} covers` : "By sound alone";
  tiles.clear();
  byId("modes").querySelector("input").checked = true;
  byId("covers").replaceChildren(...matches.map((match) => tile(match, onOpen)));
  byId("plate").replaceChildren(...(matches.length ? [describe(matches[0])] : []));
  byId("genres").replaceChildren(...genreBar(matches));
  walkable(byId("covers"));
  mark();
}

/** Follows the choices. */
export function readyMatches() {
  byId("modes").addEventListener("change", mark);
  onSteering(mark);
}
