/** @module What this server says of itself: the release that serves, and what it takes at most. Null where it does not say. */

import { currentLimits, currentRelease } from "/static/api/requests.js";

let release = null;
let limits = null;

/** @returns {Object|null} the release that serves */
export const theRelease = () => release;

/** @returns {Object|null} what a request may ask for at most */
export const theLimits = () => limits;

/** Asks the server for both; never for a key. */
export async function loadServer() {
  [release, limits] = await Promise.all([currentRelease(), currentLimits()]);
}
