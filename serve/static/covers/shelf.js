/** @module What this browser remembers, on the page before a song: favourites, and songs before, each a link to its covers while they last. */

import { favourites, forgetAll, forgetFavourite, isGone, jobs, onCollection } from "/static/covers/collection.js";
import { build, byId, dayAndTime } from "/static/document/dom.js";

const SHOWN = 4;

const picture = (source) => (source ? build("img", { src: source, alt: "", decoding: "async" }) : build("span", { className: "blank" }));
const until = (entry) => (entry.until ? `On the server until ${dayAndTime(entry.until)}` : "Not finished when you left");

/** @returns {string} the path of a job's covers on this page */
export const pathOf = (jobId) => `/covers/${encodeURIComponent(jobId)}`;

function favourite(entry) {
  const gone = isGone(entry);
  const name = entry.name || "A song";
  const words = [build("span", { className: "shelf-name" }, name),
    build("span", { className: "soft" }, gone ? `Gone from the server. The song with seed ${entry.seed} may make it again` : until(entry))];
  const inside = [picture(entry.picture), ...words];
  return build("li", {}, gone ? build("div", { className: "shelf-cover gone" }, ...inside)
    : build("a", { className: "shelf-cover", href: pathOf(entry.id) }, ...inside),
  build("button", { type: "button", className: "plain", "aria-label": `Forget the favourite of ${name}, seed ${entry.seed}`,
    on: { click: () => forget(entry) } }, "Forget"));
}

function forget(entry) {
  const at = favourites().findIndex(({ id, index }) => id === entry.id && index === entry.index);
  forgetFavourite(entry.id, entry.index);
  const left = byId("favourite-list").querySelectorAll("button");
  (left[Math.min(at, left.length - 1)] ?? byId("file")).focus();
}

function song(entry) {
  const pictures = entry.covers.slice(0, SHOWN).map((cover) => picture(cover.picture));
  return build("li", {}, build("a", { className: "shelf-song", href: pathOf(entry.id) },
    build("span", { className: "shelf-pictures" }, ...(pictures.length ? pictures : [picture(null)])),
    build("span", { className: "shelf-name" }, entry.name || "A song"),
    build("span", { className: "soft" }, `Made ${dayAndTime(entry.at)}. ${until(entry)}`)));
}

function draw() {
  const [kept, before] = [favourites(), jobs()];
  byId("shelf").hidden = kept.length + before.length === 0;
  byId("favourites").hidden = kept.length === 0;
  byId("history").hidden = before.length === 0;
  byId("favourite-list").replaceChildren(...kept.map(favourite));
  byId("history-list").replaceChildren(...before.map(song));
}

/** Shows what is remembered and follows it. */
export function readyShelf() {
  onCollection(draw);
  byId("shelf-clear").addEventListener("click", () => { forgetAll(); byId("file").focus(); });
  draw();
}
