/** @module Two new covers side by side: picked one after the other, then large, small, and in a player's list. */

import { favouriteButton } from "/static/covers/favourite.js";
import { showPicture } from "/static/api/requests.js";
import { announce, build, byId, percent, words } from "/static/document/dom.js";
import { inAList } from "/static/export/player.js";
import { onDialogClosed, openDialog } from "/static/viewer/dialog.js";

const LARGE = 768;
let picks = [];

const isOf = (pick) => (one) => one.job.job_id === pick.job.job_id && one.image.index === pick.image.index;
const changed = () => {
  byId("pick-bar").hidden = picks.length !== 1;
  byId("pick-words").textContent = picks.length ? `${picks[0].label} is picked. Pick another one to compare it with.` : "";
  document.querySelectorAll("[data-compare]").forEach(draw);
};

function draw(button) {
  const picked = picks.some(({ job, image }) => button.dataset.compare === `${job.job_id} ${image.index}`);
  button.setAttribute("aria-pressed", String(picked));
}

function facts({ image }) {
  const { title, artist } = words(image.closest?.track ?? {});
  return [
    typeof image.largest_share === "number" && `At most ${percent(image.largest_share)} of one cover.`,
    image.closest && `Closest existing cover: ${title} by ${artist}.`,
  ].filter(Boolean).map((text) => build("p", { className: "soft" }, text));
}

function side(pick, openLarge) {
  const { job, image, song, label } = pick;
  const picture = build("img", { className: "compared-picture", alt: label });
  showPicture(picture, `${image.url}?size=${LARGE}`);
  picture.loading = "eager";
  return build("section", { className: "compared", "aria-label": label }, picture, build("h3", {}, label),
    build("div", { className: "row" }, favouriteButton(job, image, song.name),
      build("button", { type: "button", className: "button quiet", on: { click: () => openLarge(pick) } }, "Show large")),
    inAList(`${image.url}?size=128`, { title: song.name || "Your song", artist: song.artist ?? "" }, job.matches.slice(0, 2)), ...facts(pick));
}

/**
 * A button that picks a cover to be compared, or lets it go.
 * @param {Object} pick  `job`, `image`, `song` (`name`, `artist`), `label` of the cover
 * @param {(pick: Object) => void} openLarge
 */
export function compareButton(pick, openLarge) {
  const button = build("button", {
    type: "button", className: "button quiet toggle", "aria-label": `Compare ${pick.label.toLowerCase()}`, "data-compare": `${pick.job.job_id} ${pick.image.index}`,
    on: { click: () => press(pick, openLarge) },
  }, "Compare");
  draw(button);
  return button;
}

function press(pick, openLarge) {
  const others = picks.filter((one) => !isOf(pick)(one));
  const held = others.length < picks.length;
  if (held) picks = others;
  else picks = picks.length < 2 ? [...picks, pick] : [pick]; // a third begins another pair
  changed();
  if (picks.length < 2) {
    announce(byId("pick-words").textContent || "Not picked any more");
    return;
  }
  openDialog({ layout: "comparison" }, build("h2", { id: "viewer-title" }, "Side by side"),
    build("div", { className: "compared-pair" }, ...picks.map((one) => side(one, openLarge))));
}

/** Lets go of what is picked. */
export function resetComparison() {
  picks = [];
  changed();
}

/** Follows the dialog and the bar. */
export function readyComparison() {
  onDialogClosed(() => picks.length === 2 && resetComparison());
  byId("pick-stop").addEventListener("click", () => { resetComparison(); byId("new-title").focus(); });
}
