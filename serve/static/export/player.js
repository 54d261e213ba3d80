/** @module A cover where listeners meet it: at 64 pixels, and in a player's list between two others. */

import { showPicture } from "/static/api/requests.js";
import { build, words } from "/static/document/dom.js";

function line(image, { title, artist }, ours) {
  return build("li", { className: ours ? "ours" : "" }, image, build("span", { className: "player-words" },
    build("span", { className: "player-title" }, title), build("span", { className: "player-artist" }, artist)));
}

function neighbour(match) {
  const image = build("img", { alt: "" });
  showPicture(image, `${match.cover_url}?size=128`);
  return line(image, words(match.track), false);
}

function own(source) {
  const image = build("img", { alt: "" });
  if (source.startsWith("blob:")) image.src = source;
  else showPicture(image, source);
  return image;
}

/**
 * The cover in a player's list, between two existing ones.
 * @param {string} source  an address of this API, or a blob: address
 * @param {{title: string, artist: string}} song
 * @param {Object[]} matches  whose covers stand above and below
 */
export function inAList(source, song, matches) {
  const [above, ...below] = matches.map(neighbour);
  return build("ol", { className: "player-list", "aria-label": "In a player's list" }, above ?? null, line(own(source), song, true), ...below);
}

/** The cover at 64 pixels. */
export function atSixtyFour(source) {
  const image = own(source);
  image.alt = "The cover at 64 pixels";
  image.className = "at-64";
  return image;
}
