/** @module Generating covers: ask for some, follow the work, show the sets, newest first. Keeps the seed that makes them again. */

import { call, upload } from "/static/api.js";
import { readyChips } from "/static/chips.js";
import { announce, byId, countWord } from "/static/dom.js";
import { follow, timeLeft } from "/static/job.js";
import { clearProblem, showProblem } from "/static/problems.js";
import { emptySet, failure, fillSet, outcomeWords, stateWords } from "/static/results.js";
import { addSettings, drawKey, offerSettings, putSeed, readySettings, setSeed, takeSeed } from "/static/settings.js";
import { chosen, resetSteering } from "/static/steering.js";

const COVERS = 4;
let song = null;
let matches = [];
let count = COVERS;
let sets = 0;
let working = null;

function labelMake() {
  const fresh = sets ? "Again, with a new seed" : `Make ${countWord(count)} ${count === 1 ? "cover" : "covers"}`;
  byId("make").textContent = setSeed() ? `Make ${countWord(count)} from seed ${setSeed()}` : fresh;
}

function requestForm(seed) {
  const form = new FormData();
  form.append("song", song, song.name);
  form.append("n", String(count));
  form.append("seed", seed);
  addSettings(form);
  const { sources, palette } = chosen();
  for (const match of sources) form.append("source_song_ids", match.track.song_id);
  if (palette) form.append("palette_from", palette.track.song_id);
  return form;
}

/** Shows how a job goes; speaks only at each quarter. */
function progressOf(set) {
  const estimate = timeLeft();
  let spoken = -1;
  return (job) => {
    set.status.textContent = stateWords(job, job.state === "queued" ? null : estimate(job.progress));
    set.progress.value = job.progress;
    set.list.style.setProperty("--progress", String(job.progress));
    const quarter = job.state === "queued" ? -0.5 : Math.floor(job.progress * 4);
    if (quarter !== spoken) announce(quarter > 0 ? `${set.status.textContent}, ${quarter * 25} percent done` : set.status.textContent);
    spoken = quarter;
  };
}

/** Shows which of the two buttons can be pressed now, and hands the focus over from one to the other. */
function busy(on) {
  const [from, to] = on ? [byId("make"), byId("cancel")] : [byId("cancel"), byId("make")];
  const held = document.activeElement === from;
  byId("cancel").hidden = false;
  to.disabled = false;
  if (held) to.focus();
  from.disabled = true;
  byId("cancel").hidden = !on;
}

async function run(set, form, work) {
  const first = await upload("/v1/covers", () => form, {
    headers: { Prefer: "wait=0", "Idempotency-Key": drawKey() },
    onSent: (share) => { set.status.textContent = share < 1 ? `Sending the song, ${Math.round(share * 100)} %` : "Sent"; },
    signal: work.abort.signal,
  });
  work.jobId = first.job_id;
  const show = progressOf(set);
  show(first);
  return follow(first, show);
}

function settle(set, job, again) {
  if (job.state === "succeeded") {
    sets += 1;
    fillSet(set, job, sets, matches, () => putSeed(String(job.request.seed), true));
    putSeed("");
    announce(outcomeWords(job, sets));
    return;
  }
  set.element.remove();
  if (job.state === "cancelled") announce("Cancelled. Nothing was made.");
  else showProblem(byId("make-problem"), failure(job), again);
}

async function make(form) {
  clearProblem(byId("make-problem"));
  const set = emptySet(sets + 1, count);
  const work = { abort: new AbortController(), jobId: null };
  working = work;
  byId("sets").prepend(set.element);
  busy(true);
  try {
    const job = await run(set, form, work);
    if (working === work) settle(set, job, () => make(form));
  } catch (problem) {
    set.element.remove();
    if (working === work && problem.name !== "AbortError") showProblem(byId("make-problem"), problem, () => make(form));
  } finally {
    if (working === work) {
      working = null;
      busy(false);
      labelMake();
    }
  }
}

async function cancel() {
  const work = working;
  if (!work.jobId) work.abort.abort();
  else {
    try {
      await call(`/v1/covers/${work.jobId}`, { method: "DELETE" });
    } catch (problem) {
      showProblem(byId("make-problem"), problem, cancel);
    }
  }
}

/**
 * Makes room for a song's covers; what was being made for another is cancelled.
 * @param {File} next
 * @param {Object[]} found  its matches, nearest first
 * @param {Object|null} release
 * @param {Object|null} limits
 */
export function startFor(next, found, release, limits) {
  if (working) cancel();
  working = null;
  [song, matches, sets] = [next, found, 0];
  count = Math.min(COVERS, limits?.n_max ?? COVERS);
  offerSettings(release, limits);
  resetSteering(["local-score", "diffusers"].includes(release?.generator_kind));
  byId("sets").replaceChildren();
  clearProblem(byId("make-problem"));
  byId("generate").hidden = false;
  busy(false);
  labelMake();
}

/** Wires the form. */
export function ready() {
  readySettings(labelMake);
  readyChips(() => matches.length);
  byId("cancel").addEventListener("click", cancel);
  byId("make-form").addEventListener("submit", (event) => {
    event.preventDefault();
    make(requestForm(takeSeed()));
  });
}
