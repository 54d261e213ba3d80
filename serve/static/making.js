/** @module Making covers: ask for four, follow the work, show the takes, newest first. Keeps the seed that makes them again. */

import { call, Problem, showPicture, upload } from "/static/api.js";
import { announce, build, byId, inWords } from "/static/dom.js";
import { walkable } from "/static/grid.js";
import { follow, timeLeft } from "/static/job.js";
import { clearProblem, showProblem } from "/static/problems.js";
import { openCover } from "/static/viewer.js";

const COVERS = 4;
const form = byId("making-form");
const seedField = byId("seed");
const guidance = byId("guidance");
let song = null;
let takes = 0;
let guided = false;
let working = null;

const drawSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0]);

function labelMake() {
  const seed = seedField.value.trim();
  const fresh = takes ? "Again, with a new seed" : "Make four covers";
  byId("make").textContent = seed ? `Make four from seed ${seed}` : fresh;
}

function labelGuidance() {
  const value = Number(guidance.value);
  const word = value < 1.5 ? "Loosely" : value < 2.5 ? "As usual" : value < 4 ? "Closely" : "To the letter";
  byId("guidance-words").textContent = word;
  guidance.setAttribute("aria-valuetext", word);
}

function order(seed) {
  const body = new FormData();
  body.append("song", song, song.name);
  body.append("n", String(COVERS));
  body.append("seed", seed);
  if (guided) body.append("guidance_scale", guidance.value);
  return body;
}

/** An empty take: four sleeves whose records are pressed as the work goes on. */
function emptyTake() {
  const status = build("p", { className: "take-status" }, "Sending the song");
  const progress = build("progress", { max: 1, value: 0, "aria-label": "Covers being made" });
  const sleeves = Array.from({ length: COVERS }, () => build("li", { className: "pressing" }, build("span")));
  const list = build("ol", { className: "take-covers" }, ...sleeves);
  const element = build("section", { className: "take working", "aria-label": `Take ${takes + 1}` },
    build("header", { className: "take-head" }, status, progress), list);
  return { element, status, progress, list };
}

function say(job, estimate) {
  if (job.state === "queued") return job.position ? `Waiting: ${job.position} before yours` : "Next in line";
  const left = estimate(job.progress);
  return left === null ? "Drawing" : `Drawing, about ${inWords(left)} left`;
}

/** Shows how a job goes; speaks only at each quarter. */
function progressOf(take) {
  const estimate = timeLeft();
  let spoken = -1;
  return (job) => {
    take.status.textContent = say(job, estimate);
    take.progress.value = job.progress;
    take.list.style.setProperty("--progress", String(job.progress));
    const quarter = job.state === "queued" ? -0.5 : Math.floor(job.progress * 4);
    if (quarter !== spoken) announce(quarter > 0 ? `${take.status.textContent}, ${quarter * 25} percent done` : take.status.textContent);
    spoken = quarter;
  };
}

function finishedCover(job, image) {
  const picture = build("img", { alt: "" });
  showPicture(picture, `${image.url}?size=512`);
  picture.loading = "eager";
  return build("li", {}, build("button", {
    type: "button", "data-tile": "", "aria-label": `New cover ${image.index + 1}, seed ${image.seed}. Show large`,
    on: { click: () => openCover(job, image.index) },
  }, picture), build("p", { className: "seed" }, `Seed ${image.seed}`));
}

function finish(take, job) {
  takes += 1;
  take.element.classList.remove("working");
  take.element.querySelector(".take-head").replaceChildren(
    build("h3", {}, `Take ${takes}`),
    build("button", { type: "button", className: "plain", on: { click: () => reuse(job) } }, `Use seed ${job.request.seed} again`));
  take.list.replaceChildren(...job.images.map((image) => finishedCover(job, image)));
  walkable(take.list);
  seedField.value = "";
  announce(`Four new covers are ready. Take ${takes}.`);
}

function reuse(job) {
  form.querySelector("details").open = true;
  seedField.value = String(job.request.seed);
  labelMake();
  seedField.focus();
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

async function run(take, seed, work) {
  const first = await upload("/v1/covers", () => order(seed), {
    headers: { Prefer: "wait=0", "Idempotency-Key": `page-${drawSeed()}-${drawSeed()}` },
    onSent: (share) => { take.status.textContent = share < 1 ? `Sending the song, ${Math.round(share * 100)} %` : "Handing it over"; },
    signal: work.abort.signal,
  });
  work.jobId = first.job_id;
  const show = progressOf(take);
  show(first);
  return follow(first, show);
}

function settle(take, job, again) {
  if (job.state === "succeeded") {
    finish(take, job);
    return;
  }
  take.element.remove();
  if (job.state === "cancelled") announce("Cancelled. Nothing was made.");
  else showProblem(byId("make-problem"), new Problem(job.problem), again);
}

async function make(seed) {
  clearProblem(byId("make-problem"));
  const take = emptyTake();
  const work = { abort: new AbortController(), jobId: null };
  working = work;
  byId("takes").prepend(take.element);
  busy(true);
  try {
    const job = await run(take, seed, work);
    if (working === work) settle(take, job, () => make(seed));
  } catch (problem) {
    take.element.remove();
    if (working === work && problem.name !== "AbortError") showProblem(byId("make-problem"), problem, () => make(seed));
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

/** Makes room for a song's covers; what was being made for another is cancelled. */
export function startFor(next) {
  if (working) cancel();
  working = null;
  song = next;
  takes = 0;
  byId("takes").replaceChildren();
  clearProblem(byId("make-problem"));
  byId("making").hidden = false;
  busy(false);
  labelMake();
}

/** Wires the form. */
export function ready() {
  labelGuidance();
  guidance.addEventListener("input", () => { guided = true; labelGuidance(); });
  seedField.addEventListener("input", labelMake);
  byId("cancel").addEventListener("click", cancel);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    make(seedField.value.trim() || drawSeed());
  });
}
