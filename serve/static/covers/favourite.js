/** @module The button that keeps a cover among the favourites of this browser. */

import { isFavourite, onCollection, toggleFavourite } from "/static/covers/collection.js";
import { announce, build } from "/static/document/dom.js";

const FULL = "This browser keeps nothing: its storage is full, or switched off.";

function draw(button) {
  const [jobId, index] = button.dataset.favourite.split(" ");
  button.setAttribute("aria-pressed", String(isFavourite(jobId, Number(index))));
}

/**
 * A button that keeps a cover, or lets it go.
 * @param {Object} job
 * @param {Object} image  one of its covers
 * @param {string} name  of the song
 */
export function favouriteButton(job, image, name) {
  const button = build("button", {
    type: "button", className: "button quiet toggle", "aria-label": `Keep cover with seed ${image.seed} as a favourite`, "data-favourite": `${job.job_id} ${image.index}`,
    on: { click: (event) => press(event.currentTarget, job, image, name) },
  }, "Keep");
  draw(button);
  return button;
}

async function press(button, job, image, name) {
  try {
    const done = await toggleFavourite(job, image, name);
    button.textContent = done ? "Keep" : "Cannot keep";
    button.title = done ? "" : FULL;
    if (!done) announce(FULL);
    else announce(isFavourite(job.job_id, image.index) ? "Kept in this browser" : "No longer kept");
  } catch (problem) {
    announce(`Kept without its picture: ${problem.message}`);
  }
}

/** Follows the collection. */
export function readyFavourites() {
  onCollection(() => document.querySelectorAll("[data-favourite]").forEach(draw));
}
