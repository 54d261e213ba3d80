/** @module Where sets of new covers stand: the newest in the sleeve, those before it further down. */

import { byId } from "/static/document/dom.js";

let done = [];
let working = null;

function place() {
  const [newest, ...before] = working ? [working, ...done] : done;
  byId("current").replaceChildren(...(newest ? [newest] : []));
  byId("sets").replaceChildren(...before);
  byId("earlier").hidden = before.length === 0;
}

/** Begins without sets. */
export function resetSets() {
  [done, working] = [[], null];
  place();
}

/** Shows a set that is being made. @param {HTMLElement} element */
export function showWorking(element) {
  working = element;
  place();
}

/** Takes the set that is being made away; with `keep` it stays, as the newest. */
export function endWorking(keep) {
  if (keep) done = [working, ...done];
  working = null;
  place();
}
