/** @module What was chosen among the matches, beside the button that generates: one chip each, to be taken away again. */

import { showPicture } from "/static/api/requests.js";
import { build, byId, words } from "/static/document/dom.js";
import { chosen, clearSources, onSteering, steerable, togglePalette, toggleSource } from "/static/matches/steering.js";

const SHOWN = 8;
const FEW = 4;

function chip(match, what, remove) {
  const { title, artist } = words(match.track);
  const image = build("img", { alt: "" });
  showPicture(image, `${match.cover_url}?size=128`);
  return build("li", { className: "chip" }, image, build("span", { className: "chip-title" }, title),
    build("button", { type: "button", "aria-label": `${what}: ${title} by ${artist}. Remove`, on: { click: () => remove(match) } }, "\u00d7"));
}

function group(name, chips, ...rest) {
  return build("div", { className: "chip-group" }, build("span", { className: "chip-name" }, name),
    build("ul", { className: "chips", "aria-label": name }, ...chips), ...rest);
}

function sourceGroup(sources, total) {
  const hidden = sources.length - SHOWN;
  const more = hidden > 0 ? [build("li", { className: "soft" }, `and ${hidden} more`)] : [];
  const chips = sources.slice(0, SHOWN).map((match) => chip(match, "Source", toggleSource));
  return group(`Sources: ${sources.length} of ${total}`, [...chips, ...more],
    build("button", { type: "button", className: "plain", on: { click: clearSources } }, "Clear sources"));
}

const few = () => build("p", { className: "soft" },
  "With few sources a new cover may come too close to one of them; such a cover is not handed out.");

/** Hands the focus on from a chip that is gone to its successor, or to what generates. */
function keepFocus(place, draw) {
  const buttons = () => [...place.querySelectorAll("button")];
  const at = buttons().indexOf(document.activeElement);
  draw();
  if (at >= 0) (buttons()[Math.min(at, buttons().length - 1)] ?? byId("make")).focus();
}

/**
 * Shows the choices and follows them.
 * @param {() => number} total  how many matches there are to choose from
 */
export function readyChips(total) {
  const place = byId("steering");
  onSteering(() => keepFocus(place, () => {
    const { sources, palette } = chosen();
    place.hidden = !steerable();
    place.replaceChildren(
      sources.length ? sourceGroup(sources, total()) : build("p", { className: "soft" },
        `Made from all ${total()} covers. In the grid you can choose which ones are used, and whose colours lead.`),
      ...(palette ? [group("Colours", [chip(palette, "Colours", togglePalette)])] : []),
      ...(sources.length && sources.length < FEW ? [few()] : []));
  }));
}
