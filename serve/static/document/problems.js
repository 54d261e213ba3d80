/** @module How a problem is shown: what happened in the server's own words, and what one can do. */

import { build } from "/static/document/dom.js";

function advice(problem) {
  if (problem.retryAfter) return `The server is busy. Try again in ${problem.retryAfter} seconds.`;
  if (problem.status === 503) return "This passes: try again in a moment.";
  if (problem.status === 401) return "A key is needed to go on. Try again to enter one.";
  return "";
}

/**
 * Shows a problem in its place, with a way on where there is one.
 * @param {HTMLElement} place
 * @param {Error} problem
 * @param {(() => void)|null} again  tries the same once more
 */
export function showProblem(place, problem, again = null) {
  const hint = advice(problem);
  const retry = again && build("button", { type: "button", className: "button quiet", on: { click: () => { clearProblem(place); again(); } } }, "Try again");
  place.replaceChildren(
    build("p", { className: "problem-title" }, problem.title ?? "Something went wrong"),
    build("p", {}, problem.message),
    ...(hint ? [build("p", {}, hint)] : []),
    ...(retry ? [retry] : []),
  );
  place.hidden = false;
}

/** Takes a problem away. */
export function clearProblem(place) {
  place.hidden = true;
  place.replaceChildren();
}
