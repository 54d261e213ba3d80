/** @module A set of new covers as it is made and when it is done; those that were not handed out keep their place, with the reason. */

import { Problem, showPicture } from "/static/api/requests.js";
import { build, countWord, inWords, percent, words } from "/static/document/dom.js";
import { walkable } from "/static/document/grid.js";
import { compareButton } from "/static/covers/comparison.js";
import { favouriteButton } from "/static/covers/favourite.js";
import { loadSources } from "/static/api/sources.js";
import { openCover, showLarge } from "/static/viewer/viewer.js";

const REASONS = {
  too_much_of_one_source: ({ value, limit }) => `${percent(value, 1)} of it came from one cover; at most ${percent(limit, 1)} may.`,
  region_too_large: ({ value, limit }) => `One connected part, ${percent(value, 1)} of it, came from a single cover; at most ${percent(limit, 1)} may.`,
  too_like_a_cover: ({ value, limit }) => `Its likeness to one existing cover was ${value.toFixed(2)} of 1; at most ${limit.toFixed(2)} is allowed.`,
};

/**
 * A set without covers yet: as many sleeves as are asked for, whose records fill as the work goes on.
 * @param {number} number  of the set
 * @param {number} count  of covers
 */
export function emptySet(number, count) {
  const status = build("p", { className: "set-status" }, "Sending the song");
  const progress = build("progress", { max: 1, value: 0, "aria-label": "Covers being generated" });
  const list = build("ol", { className: "set-covers" },
    ...Array.from({ length: count }, () => build("li", { className: "pending" }, build("span"))));
  const element = build("section", { className: "set working", "aria-label": `Set ${number}` },
    build("header", { className: "set-head" }, status, progress), list);
  return { element, status, progress, list };
}

/** @returns {string} how a job goes, with the time left where it is known (seconds or null) */
export function stateWords(job, left) {
  if (job.state === "queued") return job.position ? `Waiting: ${job.position} before yours` : "Next in line";
  return left === null ? "Generating" : `Generating, about ${inWords(left)} left`;
}

const mostOfOne = (image) => (image.largest_share === null ? "" : `at most ${percent(image.largest_share)} of one`);

/** One line on where a cover comes from; how many covers is known once its sources are read. */
function origin(image) {
  const line = build("p", { className: "origin" }, `${mostOfOne(image)} cover`);
  loadSources(image).then((sources) => {
    const count = sources.length === 1 ? "1 cover" : `${sources.length} covers`;
    line.textContent = `from ${count}, ${mostOfOne(image)}`;
  }, (problem) => { line.title = problem.message; }); // the viewer asks again, and shows what went wrong
  return line;
}

function handedOut(job, image, number, song) {
  const picture = build("img", { alt: "" });
  showPicture(picture, `${image.url}?size=${Math.min(job.request.size ?? 512, 512)}`);
  picture.loading = "eager";
  const label = `Set ${number}, cover ${image.index + 1}`;
  return build("li", {}, build("button", {
    type: "button", "data-tile": "", "aria-label": `New cover ${image.index + 1}, seed ${image.seed}. Show large`,
    on: { click: () => openCover(job, job.images.indexOf(image), song) },
  }, picture), image.sources_url && origin(image),
  build("div", { className: "tile-buttons" }, favouriteButton(job, image, song.name), compareButton({ job, image, song, label }, showLarge)));
}

function notHandedOut(refusal) {
  const reason = REASONS[refusal.code]?.(refusal) ?? refusal.detail;
  return build("li", { className: "refused" },
    build("div", { className: "refused-body", title: refusal.detail }, build("p", { className: "refused-title" }, "Not handed out"), build("p", {}, reason)),
    build("p", { className: "seed" }, `Seed ${refusal.seed}`));
}

/** What was asked for, in words, as far as it is not the default. */
function requestWords({ size, novelty, source_song_ids: sources, palette_from: palette }, nameOf) {
  return [
    size && `${size} px`,
    typeof novelty === "number" && `mix ${novelty.toFixed(2)}`,
    sources?.length && `${sources.length} chosen ${sources.length === 1 ? "source" : "sources"}`,
    palette && `colours of ${nameOf(palette)}`,
  ].filter(Boolean).join(", ");
}

/** @returns {string} how many covers there are now, for those who do not see them */
export function outcomeWords(job, number) {
  const refused = (job.refused ?? []).length;
  const ready = `${countWord(job.images.length)} new ${job.images.length === 1 ? "cover is" : "covers are"} ready`;
  const rest = refused ? `, ${countWord(refused)} not handed out` : "";
  return `${ready[0].toUpperCase()}${ready.slice(1)}${rest}. Set ${number}.`;
}

/**
 * Shows what a job made.
 * @param {Object} set  of emptySet
 * @param {Object} job  succeeded
 * @param {{number: number, matches: Object[], song: Object, onReuse: (() => void)|null}} about  the set's number, the
 *   matches and the song, and what uses the seed again, where that can be done here
 */
export function fillSet(set, job, { number, matches, song, onReuse }) {
  const nameOf = (id) => words(matches.find(({ track }) => track.song_id === id)?.track ?? {}).title;
  const refused = job.refused ?? [];
  set.element.classList.remove("working");
  set.element.querySelector(".set-head").replaceChildren(
    build("h3", {}, `Set ${number}`),
    build("p", { className: "soft set-request" }, requestWords(job.request, nameOf)),
    onReuse ? build("button", { type: "button", className: "plain", on: { click: onReuse } }, `Use seed ${job.request.seed} again`) : "");
  const tiles = [...job.images.map((image) => [image.index, handedOut(job, image, number, song)]), ...refused.map((one) => [one.index, notHandedOut(one)])];
  set.list.replaceChildren(...tiles.sort((a, b) => a[0] - b[0]).map(([, tile]) => tile));
  if (job.images.length) walkable(set.list);
  if (refused.length) {
    set.element.append(build("p", { className: "soft set-note" },
      "A new cover that comes too close to one existing cover is not handed out. More sources, or a more mixed setting, help."));
  }
}

/** @returns {Problem} what a failed job says */
export const failure = (job) => new Problem(job.problem);
