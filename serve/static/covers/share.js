/** @module A link to a job's covers, for others to see: how long it lasts, and what opening it takes. */

import { currentKey } from "/static/api/requests.js";
import { pathOf } from "/static/covers/shelf.js";
import { announce, build, byId, dayAndTime, inWords } from "/static/document/dom.js";

const HERE = ["localhost", "127.0.0.1", "[::1]"];
const button = byId("share");
const box = byId("share-box");
const link = byId("share-link");
let shown = { job: null, name: "" };

/** @returns {string} the path of a job's covers, with the song's name, which the server does not know, after the # */
export const addressOf = (jobId, name) => pathOf(jobId) + (name ? `#${encodeURIComponent(name)}` : "");

function lastsWords({ expires_at: end, finished_at: finished }) {
  if (!end) return "It lasts for as long as the server keeps the covers.";
  return `It lasts until ${dayAndTime(end)}, ${inWords((Date.parse(end) - Date.parse(finished)) / 1_000)} from when they were made.`;
}

function notes(job) {
  return [
    lastsWords(job),
    currentKey() ? "This server asks for a key, and shows covers to the key that made them alone: to open the link one needs the same key." : "All who have the link can see the covers.",
    HERE.includes(location.hostname) && "This server is reached at an address of this computer: the link works on this computer alone.",
  ].filter(Boolean);
}

function show(on) {
  box.hidden = !on;
  button.setAttribute("aria-expanded", String(on));
  if (!on) return;
  link.value = location.origin + addressOf(shown.job.job_id, shown.name);
  byId("share-send").textContent = navigator.share ? "Send" : "Copy";
  byId("share-note").replaceChildren(...notes(shown.job).map((text) => build("span", {}, text, " ")));
  link.focus();
  link.select();
}

async function send() {
  try {
    if (navigator.share) await navigator.share({ title: shown.name || "New covers", url: link.value });
    else {
      await navigator.clipboard.writeText(link.value);
      byId("share-send").textContent = "Copied";
      announce("The link is copied");
    }
  } catch (error) {
    if (error.name === "AbortError") return; // the visitor thought better of it
    link.focus(); // no clipboard at this address, or not allowed: the link is there to be taken by hand
    link.select();
    byId("share-send").textContent = "Copy by hand";
    announce("The link could not be copied. It is marked: copy it by hand.");
  }
}

/** Offers a link to a job's covers; null takes the offer back. */
export function offerLink(job, name) {
  shown = { job, name };
  button.hidden = !job;
  show(false);
}

/** Wires the buttons. */
export function readyShare() {
  button.addEventListener("click", () => show(box.hidden));
  byId("share-send").addEventListener("click", send);
}
