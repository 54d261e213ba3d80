/** @module What this browser remembers over reloads: the last jobs with their ends, and favourites. Draws nothing. */

import { pictureAsText } from "/static/api/requests.js";

const [JOBS, FAVOURITES, ARTIST] = ["gatefold-jobs", "gatefold-favourites", "gatefold-artist"];
const JOBS_KEPT = 20;
const FAVOURITES_KEPT = 60;
const THUMBNAIL = "size=160&format=jpeg&quality=80";
const listeners = [];

/** @param {() => void} listener  called after each change, in whichever tab */
export const onCollection = (listener) => listeners.push(listener);

const changed = () => listeners.forEach((listener) => listener());

function read(name) {
  try {
    const kept = JSON.parse(localStorage.getItem(name) ?? "[]");
    return Array.isArray(kept) ? kept : [];
  } catch {
    return []; // no storage here, or not ours
  }
}

/** @returns {boolean} whether it could be kept: storage may be full, or switched off */
function write(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    return false;
  }
  changed();
  return true;
}

/** @returns {boolean} whether the server no longer has it */
export const isGone = ({ until }) => until !== null && Date.parse(until) < Date.now();

/** @returns {Object[]} the jobs that the server may still have, the newest first */
export const jobs = () => read(JOBS).filter((job) => !isGone(job));

/** @returns {boolean} whether this browser has had the job before */
export const isRemembered = (jobId) => jobs().some(({ id }) => id === jobId);

/** @returns {string} the name of a job's song in this browser, or an empty text */
export const nameOf = (jobId) => jobs().find(({ id }) => id === jobId)?.name ?? "";

/** @returns {Object[]} the newest first; also those that the server no longer has */
export const favourites = () => read(FAVOURITES);

const same = (one, jobId, index) => one.id === jobId && one.index === index;

export const isFavourite = (jobId, index) => favourites().some((one) => same(one, jobId, index));

/** Takes a job in, or what is known of it now. */
export function rememberJob(job, name) {
  const known = jobs();
  const before = known.find(({ id }) => id === job.job_id);
  const entry = { covers: before?.covers ?? [], id: job.job_id, name, at: job.created_at, until: job.expires_at ?? null };
  return write(JOBS, before ? known.map((one) => (one === before ? entry : one)) : [entry, ...known].slice(0, JOBS_KEPT));
}

/** Adds small pictures of a job's covers to what is remembered of it. */
export async function rememberCovers(job) {
  if (jobs().find(({ id }) => id === job.job_id)?.covers.length) return;
  const covers = await Promise.all(job.images.map(async ({ index, url }) => ({ index, picture: await pictureAsText(`${url}?${THUMBNAIL}`) })));
  write(JOBS, jobs().map((one) => (one.id === job.job_id ? { ...one, covers } : one)));
}

/** Forgets a job that came to nothing. */
export const forgetJob = (jobId) => write(JOBS, jobs().filter(({ id }) => id !== jobId));

/**
 * Adds a cover to the favourites, or takes it away; at once, its small picture follows.
 * @param {Object} job
 * @param {Object} image  one of its covers
 * @param {string} name  of the song
 * @returns {Promise<boolean>} whether that could be kept
 */
export async function toggleFavourite(job, image, name) {
  if (isFavourite(job.job_id, image.index)) return forgetFavourite(job.job_id, image.index);
  const entry = { id: job.job_id, index: image.index, seed: image.seed, name, until: job.expires_at ?? null, picture: null };
  if (!write(FAVOURITES, [entry, ...favourites()].slice(0, FAVOURITES_KEPT))) return false;
  const picture = await pictureAsText(`${image.url}?${THUMBNAIL}`);
  return write(FAVOURITES, favourites().map((one) => (same(one, job.job_id, image.index) ? { ...one, picture } : one)));
}

/** Takes a cover out of the favourites. */
export const forgetFavourite = (jobId, index) => write(FAVOURITES, favourites().filter((one) => !same(one, jobId, index)));

/** Forgets all. */
export function forgetAll() {
  for (const name of [JOBS, FAVOURITES, ARTIST]) localStorage.removeItem(name);
  changed();
}

/** @returns {string} the artist's name that was last set on a cover */
export const artist = () => read(ARTIST)[0] ?? "";

export const rememberArtist = (name) => write(ARTIST, [name]);

addEventListener("storage", changed);
