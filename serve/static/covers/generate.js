/** @module Generating covers: ask for some, follow the work, show the sets, newest first. Keeps the seed that makes them again. */

import { call, upload } from "/static/api/requests.js";
import { ended, follow, timeLeft } from "/static/api/following.js";
import { forgetJob, isRemembered, rememberCovers, rememberJob } from "/static/covers/collection.js";
import { resetComparison } from "/static/covers/comparison.js";
import { emptySet, failure, fillSet, outcomeWords, stateWords } from "/static/covers/results.js";
import { endWorking, resetSets, showWorking } from "/static/covers/sets.js";
import { addSettings, drawKey, offerSettings, putSeed, readySettings, setSeed, takeSeed } from "/static/covers/settings.js";
import { addressOf, offerLink } from "/static/covers/share.js";
import { announce, bringUp, byId, countWord } from "/static/document/dom.js";
import { clearProblem, showProblem } from "/static/document/problems.js";
import { readyChips } from "/static/matches/chips.js";
import { chosen, resetSteering } from "/static/matches/steering.js";

const COVERS = 4;
let file = null; // null where covers are shown that were made elsewhere, or before
let mine = true; // whether a job on the page may be cancelled here
let song = { name: "", artist: null };
let matches = [];
let count = COVERS;
let sets = 0;
let working = null;
let onAddress = () => {};

const covers = () => `${countWord(count)} ${count === 1 ? "cover" : "covers"}`;
const capital = (text) => text[0].toUpperCase() + text.slice(1);

function labelMake() {
  byId("make").textContent = setSeed() ? `Make ${countWord(count)} from seed ${setSeed()}` : `Make ${covers()}`;
  byId("more").textContent = sets ? `${capital(countWord(count))} more` : `Make ${covers()}`;
}

function requestForm(seed) {
  const form = new FormData();
  form.append("song", file, file.name);
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

/** Shows which buttons can be pressed now, and hands the focus over from one that cannot. */
function busy(on) {
  const makers = [byId("make"), byId("more")];
  const held = on ? makers.includes(document.activeElement) : document.activeElement === byId("cancel");
  byId("cancel").hidden = !on || !mine;
  byId("more").hidden = on;
  for (const button of makers) button.disabled = on;
  if (held) (on ? byId("cancel") : byId("more")).focus({ preventScroll: true });
}

async function run(set, form, work) {
  const { signal } = work.abort;
  const first = await upload("/v1/covers", () => form, {
    headers: { Prefer: "wait=0", "Idempotency-Key": drawKey() },
    onSent: (share) => { set.status.textContent = share < 1 ? `Sending the song, ${Math.round(share * 100)} %` : "Sent"; },
    signal,
  });
  work.jobId = first.job_id;
  rememberJob(first, song.name);
  const move = location.pathname === "/" ? "pushState" : "replaceState";
  history[move](null, "", addressOf(first.job_id, song.name));
  onAddress(location.pathname);
  const show = progressOf(set);
  show(first);
  return follow(first, show, signal);
}

function settle(set, job, again) {
  if (job.state === "succeeded") {
    sets += 1;
    const onReuse = file && (() => { putSeed(String(job.request.seed), true); bringUp(byId("seed").parentElement); });
    fillSet(set, job, { number: sets, matches, song, onReuse });
    endWorking(true);
    if (setSeed() === String(job.request.seed)) putSeed(""); // what was typed meanwhile stays
    offerLink(job, song.name);
    announce(outcomeWords(job, sets));
    keep(job);
    return;
  }
  endWorking(false);
  if (file) forgetJob(job.job_id);
  if (job.state === "cancelled") announce("Cancelled. Nothing was made.");
  else showProblem(byId("make-problem"), failure(job), again);
}

/** Remembers a job's covers. That they are not remembered is no reason to disturb who looks at them. */
async function keep(job) {
  if (!rememberJob(job, song.name)) return;
  try {
    await rememberCovers(job);
  } catch (problem) {
    console.warn("the covers are remembered without pictures:", problem.message);
  }
}

/**
 * Shows a set while work goes on, and what comes of it.
 * @param {(set: Object, work: Object) => Promise<Object>} follows  resolves to the ended job
 * @param {(() => void)|null} again
 */
async function watch(follows, again) {
  clearProblem(byId("make-problem"));
  const set = emptySet(sets + 1, count);
  const work = { abort: new AbortController(), jobId: null };
  working = work;
  showWorking(set.element);
  busy(true);
  try {
    const job = await follows(set, work);
    if (working === work) settle(set, job, again);
  } catch (problem) {
    if (working === work) {
      endWorking(false);
      if (problem.name !== "AbortError") showProblem(byId("make-problem"), problem, again);
    }
  } finally {
    if (working === work) {
      working = null;
      busy(false);
      labelMake();
    }
  }
}

const make = (form) => watch((set, work) => run(set, form, work), () => make(form));

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

/** Stops following what is being made; the job goes on. */
export function leave() {
  working?.abort.abort();
  working = null;
}

function begin(about, found) {
  [song, matches, sets] = [about, found, 0];
  resetSets();
  resetComparison();
  offerLink(null, "");
  clearProblem(byId("make-problem"));
}

/**
 * Makes room for a song's covers, and begins to make some.
 * @param {File} next
 * @param {{name: string, artist: string|null}} about  the song
 * @param {Object[]} found  its matches, nearest first
 * @param {Object|null} release
 * @param {Object|null} limits
 */
export function startFor(next, about, found, release, limits) {
  leave();
  [file, mine] = [next, true];
  begin(about, found);
  count = Math.min(COVERS, limits?.n_max ?? COVERS);
  offerSettings(release, limits);
  resetSteering(["local-score", "diffusers"].includes(release?.generator_kind));
  byId("make-form").hidden = byId("new-buttons").hidden = false;
  labelMake();
  make(requestForm(takeSeed()));
}

/**
 * Shows covers of a job that was begun elsewhere, or before; follows it where it goes on.
 * @param {Object} job
 * @param {{name: string, artist: string|null}} about  the song
 */
export function showJob(job, about) {
  leave();
  [file, mine] = [null, isRemembered(job.job_id)];
  begin(about, job.matches);
  count = job.request.n;
  resetSteering(false);
  byId("make-form").hidden = true;
  return watch(async (set, work) => {
    work.jobId = job.job_id;
    const show = progressOf(set);
    show(job);
    return follow(job, show, work.abort.signal);
  }, ended(job) ? null : () => showJob(job, about)).finally(() => { byId("more").hidden = true; });
}

/** Wires the form. @param {(path: string) => void} listener  called when the page has another address */
export function ready(listener) {
  onAddress = listener;
  readySettings(labelMake);
  readyChips(() => matches.length);
  byId("cancel").addEventListener("click", cancel);
  byId("make-form").addEventListener("submit", (event) => {
    event.preventDefault();
    bringUp(byId("new"));
    make(requestForm(takeSeed()));
  });
}
