/** @module A job of the server: follow it to its end by events, or by asking again; guess the time left. Draws nothing. */

import { call, Problem } from "/static/api/requests.js";

const POLL_MS = 1_000;
const PATIENCE = 5;

const pause = () => new Promise((resolve) => setTimeout(resolve, POLL_MS));

/** @returns {boolean} whether nothing more will happen to the job */
export const ended = (job) => ["succeeded", "failed", "cancelled"].includes(job.state);

/**
 * Follows a job until it has ended.
 * @param {Object} job  as the server gave it
 * @param {(job: Object) => void} onChange
 * @param {AbortSignal} signal  ends the following, not the job
 * @returns {Promise<Object>} the job in its end state
 */
export async function follow(job, onChange, signal) {
  if (ended(job)) return job;
  return await followEvents(job.job_id, onChange, signal) ?? poll(job.job_id, onChange, signal);
}

/** Server-sent events of an answer. By fetch, since EventSource cannot carry a key. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).replaceAll("\r\n", "\n").split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const fields = Object.fromEntries(part.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
      if (fields.data) yield { id: fields.id, job: JSON.parse(fields.data) };
    }
  }
}

/** Resolves to the ended job, or to null when the stream cannot be had; a stream that breaks is taken up where it broke. */
async function followEvents(jobId, onChange, signal) {
  let last = null;
  for (let failures = 0; failures < PATIENCE; failures += 1) {
    try {
      const response = await call(`/v1/covers/${jobId}/events`, { headers: last === null ? {} : { "Last-Event-ID": last }, signal });
      if (response.status === 204) return null;
      for await (const { id, job } of eventsOf(response)) {
        [failures, last] = [0, id];
        if (ended(job)) return job;
        onChange(job);
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (error instanceof Problem && !error.passes) return null; // asking for the job says why
    }
    await pause();
  }
  return null;
}

async function poll(jobId, onChange, signal) {
  for (let failures = 0; ;) {
    try {
      const job = await (await call(`/v1/covers/${jobId}`, { signal })).json();
      if (ended(job)) return job;
      failures = 0;
      onChange(job);
    } catch (problem) {
      failures += 1;
      if (!(problem instanceof Problem) || !problem.passes || failures >= PATIENCE) throw problem;
    }
    await pause();
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
