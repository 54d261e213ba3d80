/** @module A job of the server: follow it to its end by events, or by asking again; guess the time left. Draws nothing. */

import { call, currentKey, Problem } from "/static/api.js";

const POLL_MS = 1_000;
const PATIENCE = 5;

/** @returns {boolean} whether nothing more will happen to the job */
export const ended = (job) => ["succeeded", "failed", "cancelled"].includes(job.state);

/**
 * Follows a job until it has ended.
 * @param {Object} job  as the server gave it
 * @param {(job: Object) => void} onChange
 * @returns {Promise<Object>} the job in its end state
 */
export async function follow(job, onChange) {
  if (ended(job)) return job;
  if (!currentKey()) { // EventSource cannot carry a key
    const last = await followEvents(job.job_id, onChange);
    if (last) return last;
  }
  return poll(job.job_id, onChange);
}

/** Resolves to the ended job, or to null when the stream cannot be had. */
function followEvents(jobId, onChange) {
  return new Promise((resolve) => {
    const source = new EventSource(`/v1/covers/${jobId}/events`);
    let failures = 0;
    const leave = (job) => {
      source.close();
      resolve(job);
    };
    source.addEventListener("state", (event) => {
      failures = 0;
      const job = JSON.parse(event.data);
      if (ended(job)) leave(job);
      else onChange(job);
    });
    source.addEventListener("error", () => {
      failures += 1;
      if (source.readyState === EventSource.CLOSED || failures >= PATIENCE) leave(null);
    });
  });
}

async function poll(jobId, onChange) {
  for (let failures = 0; ;) {
    try {
      const job = await (await call(`/v1/covers/${jobId}`)).json();
      if (ended(job)) return job;
      failures = 0;
      onChange(job);
    } catch (problem) {
      failures += 1;
      if (!(problem instanceof Problem) || !problem.passes || failures >= PATIENCE) throw problem;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/**
 * Guesses the time left from how fast a job has gone since it began to run.
 * @returns {(progress: number) => number|null} seconds left; null until enough has been seen
 */
export function timeLeft() {
  let start = null;
  return (progress) => {
    const now = performance.now() / 1_000;
    if (start === null || progress < start.progress) start = { at: now, progress };
    const done = progress - start.progress;
    return done > 0.03 ? ((now - start.at) / done) * (1 - progress) : null;
  };
}
