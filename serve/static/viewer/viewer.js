/** @module One picture large: a new cover with its sources and all that belongs to it, or a match with its name. Escape closes. */

import { theLimits } from "/static/api/server.js";
import { currentKey, save, showPicture } from "/static/api/requests.js";
import { compareButton } from "/static/covers/comparison.js";
import { favouriteButton } from "/static/covers/favourite.js";
import { announce, build, percent, words } from "/static/document/dom.js";
import { clearProblem, showProblem } from "/static/document/problems.js";
import { openExport } from "/static/export/export.js";
import { describe } from "/static/matches/matches.js";
import { isPalette, isSource, steerable, togglePalette, toggleSource } from "/static/matches/steering.js";
import { Attribution } from "/static/viewer/attribution.js";
import { largePicture, openDialog } from "/static/viewer/dialog.js";

const SAVED_SIZES = [512, 1024, 3000];
const FORMATS = [["png", "PNG"], ["jpeg", "JPEG"]];
const NAMED_MATCHES = 12;
const LARGEST = 1024;

function toggle(name, match, isOn, change) {
  const button = build("button", { type: "button", className: "button quiet toggle", "aria-pressed": String(isOn(match)) }, name);
  button.addEventListener("click", () => {
    change(match);
    button.setAttribute("aria-pressed", String(isOn(match)));
  });
  return button;
}

/** Shows a match's cover, with what new covers may take from it. */
export function openMatch(match) {
  const { title, artist } = words(match.track);
  const steering = steerable() && build("div", { className: "row", role: "group", "aria-label": "For new covers" },
    toggle("Use as source", match, isSource, toggleSource), toggle("Take its colours", match, isPalette, togglePalette));
  const facts = build("div", { className: "viewer-side" },
    build("h2", { id: "viewer-title" }, title),
    build("p", {}, artist),
    match.track.album ? build("p", { className: "soft" }, match.track.album) : null,
    describe(match), steering);
  openDialog({ layout: "one" }, build("div", { className: "viewer-stage" }, largePicture(`${match.cover_url}?size=768`, `Cover of ${title} by ${artist}`)), facts);
}

function saveButtons(job, image, place) {
  const most = theLimits()?.image_size_max ?? job.request.size;
  const sizes = [...new Set([...SAVED_SIZES, job.request.size])].filter((size) => size <= most).sort((a, b) => a - b);
  const wanted = FORMATS.flatMap(([format, name]) => sizes.map((size) => ({ format, name, size })));
  const group = build("div", { className: "saves", role: "group", "aria-label": "Save this cover" }, ...wanted.map(({ format, name, size }) => {
    const source = `${image.url}?size=${size}&format=${format}&download=1`;
    const file = `cover-${image.seed}-${size}.${format === "jpeg" ? "jpg" : "png"}`;
    return build("button", { type: "button", className: "button quiet", on: { click: () => keep(source, file, place) } }, `${name} ${size}`);
  }));
  group.style.setProperty("--sizes", String(sizes.length));
  return group;
}

async function keep(source, file, place) {
  clearProblem(place);
  try {
    await save(source, file);
    announce(`${file} saved`);
  } catch (problem) {
    showProblem(place, problem, () => keep(source, file, place));
  }
}

/** A link carries no key, so behind one the manifest is fetched and saved. */
function manifestByKey(event, address, place) {
  if (!currentKey()) return;
  event.preventDefault();
  keep(address, "manifest.json", place);
}

/** The matches, where the generator does not say what comes from which. */
function fromMatches(matches) {
  const hidden = matches.length - NAMED_MATCHES;
  const named = matches.slice(0, NAMED_MATCHES).map((match) => {
    const { title, artist } = words(match.track);
    const image = build("img", { alt: "" });
    showPicture(image, `${match.cover_url}?size=128`);
    return build("li", {}, image, build("span", {}, title, build("br"), build("span", { className: "soft" }, artist)));
  });
  return [build("h3", {}, "Generated from"), build("ul", { className: "neighbours" }, ...named),
    hidden > 0 && build("p", { className: "soft" }, `and ${hidden} more, all in the manifest`)];
}

function closest({ closest: match, likeness }) {
  if (!match) return null;
  const { title, artist } = words(match.track);
  return build("p", {}, `Closest existing cover: ${title} by ${artist}, likeness ${(likeness ?? match.score).toFixed(2)} of 1.`);
}

function measured({ largest_share: share, largest_region: region, attempts }) {
  if (typeof share !== "number") return null;
  const connected = typeof region === "number" ? `, the largest connected part ${percent(region)}` : "";
  const again = attempts > 1 ? ` It is attempt ${attempts}: those before came too close to one cover.` : "";
  return build("p", {}, `At most ${percent(share)} of one cover${connected}.${again}`);
}

function facts(cover, attribution) {
  const { job, image, song, position } = cover;
  const place = build("div", { className: "problem", role: "alert", hidden: true });
  const manifest = `/v1/covers/${job.job_id}/manifest.json`;
  const from = attribution ? [build("h3", {}, "Where it comes from"), measured(image), attribution.list] : fromMatches(job.matches);
  return build("div", { className: "viewer-side" },
    build("h2", { id: "viewer-title" }, `New cover ${position + 1} of ${job.images.length}`),
    build("p", { className: "soft" }, "Seed ", build("b", {}, String(image.seed)), job.request.size && `, made at ${job.request.size} pixels a side`),
    build("div", { className: "row" },
      build("button", { type: "button", className: "button", on: { click: () => openExport(cover, () => openCover(job, position, song)) } }, "Export for stores"),
      favouriteButton(job, image, song.name), compareButton({ ...cover, label: `Cover ${image.index + 1}, seed ${image.seed}` }, showLarge)),
    ...from,
    closest(image),
    build("h3", {}, "Save"), saveButtons(job, image, place), place,
    build("p", { className: "soft" }, "All that makes it again: ",
      build("a", { href: manifest, target: "_blank", rel: "noopener", on: { click: (event) => manifestByKey(event, manifest, place) } }, "manifest.json")));
}

/** Shows one of two that were compared. */
export const showLarge = ({ job, image, song }) => openCover(job, job.images.indexOf(image), song);

/**
 * Shows a new cover with its sources, saves, seed and manifest. Left and right arrows go through the set, except on the
 * cover and in the list, where they point at places and sources.
 * @param {Object} job  succeeded
 * @param {number} position  among its images
 * @param {{name: string, artist: string|null}} song
 */
export function openCover(job, position, song) {
  const image = job.images[position];
  const count = job.images.length;
  const go = (step) => openCover(job, (position + step + count) % count, song);
  const arrow = (name, sign, step) => build("button", { type: "button", className: `leaf-button ${sign}`, "aria-label": name, on: { click: () => go(step) } });
  const onKey = (event) => {
    if (event.defaultPrevented) return;
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  };
  const name = `New cover ${position + 1}`;
  const large = largePicture(`${image.url}?size=${Math.min(job.request.size ?? LARGEST, LARGEST)}`, image.sources_url ? "" : name);
  const attribution = image.sources_url ? new Attribution(image, large, name) : null;
  const foot = build("div", { className: "viewer-foot" }, attribution?.caption ?? null,
    count > 1 && build("div", { className: "leaf-buttons" }, arrow("Previous cover", "back", -1), arrow("Next cover", "on", 1)));
  openDialog({ layout: "one", onKey }, build("div", { className: "viewer-stage" }, attribution?.stage ?? large, foot),
    facts({ job, image, song, position }, attribution));
}
