/** @module One picture large: a new cover with all that belongs to it, or a neighbour with its name. Escape closes. */

import { currentKey, save, showPicture } from "/static/api.js";
import { announce, build, byId, words } from "/static/dom.js";
import { describe } from "/static/hundred.js";
import { clearProblem, showProblem } from "/static/problems.js";

const SIZES = [512, 1024];
const FORMATS = [["png", "PNG"], ["jpeg", "JPEG"]];
const dialog = byId("viewer");

function picture(source, alt) {
  const image = build("img", { className: "viewer-picture", alt });
  showPicture(image, source);
  image.loading = "eager";
  return image;
}

const closeButton = () => build("button", { type: "button", className: "viewer-close", "aria-label": "Close", on: { click: () => dialog.close() } }, "\u00d7");

/** Fills the dialog; where it was open, the focus stays on the button of the same name, so that one can leaf on. */
function open(...children) {
  const name = document.activeElement.getAttribute("aria-label");
  dialog.replaceChildren(...children);
  if (!dialog.open) dialog.showModal();
  else [...dialog.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === name)?.focus();
  if (!dialog.contains(document.activeElement)) dialog.querySelector("button").focus();
}

/** Shows a neighbour's cover. */
export function openMatch(match) {
  dialog.onkeydown = null;
  const { title, artist } = words(match.track);
  const facts = build("div", { className: "viewer-side" },
    build("h2", { id: "viewer-title" }, title),
    build("p", {}, artist),
    match.track.album && build("p", { className: "soft" }, match.track.album),
    describe(match));
  open(closeButton(), picture(`${match.cover_url}?size=768`, `Cover of ${title} by ${artist}`), facts);
}

function saveButtons(image, place) {
  const wanted = FORMATS.flatMap(([format, name]) => SIZES.map((size) => ({ format, name, size })));
  return build("div", { className: "saves", role: "group", "aria-label": "Save this cover" }, ...wanted.map(({ format, name, size }) => {
    const source = `${image.url}?size=${size}&format=${format}&download=1`;
    const file = `cover-${image.seed}-${size}.${format === "jpeg" ? "jpg" : "png"}`;
    return build("button", { type: "button", className: "button quiet", on: { click: () => keep(source, file, place) } },
      `${name} ${size}`);
  }));
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

function neighbours(matches) {
  return build("ul", { className: "neighbours" }, ...matches.map((match) => {
    const { title, artist } = words(match.track);
    const image = build("img", { alt: "" });
    showPicture(image, `${match.cover_url}?size=128`);
    return build("li", {}, image, build("span", {}, title, build("br"), build("span", { className: "soft" }, artist)));
  }));
}

function closest(image) {
  if (!image.closest) return null;
  const { title, artist } = words(image.closest.track);
  return build("p", {}, `Closest existing cover: ${title} by ${artist}, likeness ${image.closest.score.toFixed(2)} of 1.`);
}

function facts(job, image) {
  const place = build("div", { className: "problem", role: "alert", hidden: true });
  const manifest = `/v1/covers/${job.job_id}/manifest.json`;
  return build("div", { className: "viewer-side" },
    build("h2", { id: "viewer-title" }, `New cover ${image.index + 1} of ${job.images.length}`),
    build("p", {}, "Seed ", build("b", {}, String(image.seed))),
    build("h3", {}, "Save"), saveButtons(image, place), place,
    closest(image),
    build("h3", {}, "Its style comes from"), neighbours(job.matches),
    build("p", { className: "soft" }, "All that replays it: ",
      build("a", { href: manifest, target: "_blank", rel: "noopener", on: { click: (event) => manifestByKey(event, manifest, place) } }, "manifest.json")));
}

/**
 * Shows a new cover, with saves, seed, manifest and the neighbours it learned from. Left and right arrows leaf through the take.
 * @param {Object} job  succeeded
 * @param {number} index
 */
export function openCover(job, index) {
  const image = job.images[index];
  const leaf = (step) => openCover(job, (index + step + job.images.length) % job.images.length);
  const left = build("button", { type: "button", className: "leaf-button", "aria-label": "Previous cover", on: { click: () => leaf(-1) } }, "\u2190");
  const right = build("button", { type: "button", className: "leaf-button", "aria-label": "Next cover", on: { click: () => leaf(1) } }, "\u2192");
  dialog.onkeydown = (event) => {
    if (event.key === "ArrowLeft") leaf(-1);
    if (event.key === "ArrowRight") leaf(1);
  };
  open(closeButton(),
    build("div", { className: "viewer-stage" }, picture(`${image.url}?size=1024`, `New cover ${index + 1}`), build("div", { className: "row" }, left, right)),
    facts(job, image));
}
