/** @module The HTTP API: requests, problems, the key, pictures. Knows no element of the page but those handed to it. */

const KEY = "gatefold-key";
const PICTURE_TRIES = 3;
let askForKey = async () => null;
const keyListeners = [];
let asking = null;

/** What the server (or the lack of one) said: RFC 9457. `message` is the detail. */
export class Problem extends Error {
  constructor({ status = 0, title = "Something went wrong", detail = "", code = "", retryAfter = null }) {
    super(detail || title);
    Object.assign(this, { status, title, code, retryAfter });
  }

  /** @returns {boolean} whether the same request may go better later */
  get passes() {
    return this.status === 0 || this.status === 429 || this.status === 503;
  }
}

/** @returns {string|null} the key of this tab */
export const currentKey = () => sessionStorage.getItem(KEY);

/** @param {() => void} listener  called when a key is taken or forgotten */
export const onKey = (listener) => keyListeners.push(listener);

function keepKey(key) {
  if (key === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
  keyListeners.forEach((listener) => listener());
}

/** Forgets the key of this tab. */
export const forgetKey = () => keepKey(null);

/** @param {(detail: string) => Promise<string|null>} asker  called when the server answers 401; null is "not now" */
export function onUnauthorized(asker) {
  askForKey = asker;
}

function authorization() {
  const key = currentKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function readProblem(status, text, retryAfter) {
  try {
    const body = JSON.parse(text);
    return new Problem({ ...body, status, retryAfter });
  } catch {
    return new Problem({ status, title: `The server answered ${status}`, detail: "It gave no reason. Try again in a moment.", retryAfter });
  }
}

const unreachable = () =>
  new Problem({ title: "No answer", detail: "The server cannot be reached. Check the connection, then try again.", code: "unreachable" });

/** A server that takes no more of a file may hang up instead of answering. */
const broken = (sent) => new Problem({
  title: "The connection broke",
  detail: `${Math.round(sent * 100)} % of the song had been sent. Try again; if it breaks again, the file may be larger than the server takes: send it as MP3 or FLAC.`,
  code: "unreachable",
});

/** Runs an attempt; on 401 asks for a key, once for all who wait, and runs it again. */
async function withKey(attempt) {
  for (;;) {
    try {
      return await attempt();
    } catch (problem) {
      if (problem.status !== 401) throw problem;
      asking ??= askForKey(problem.message).finally(() => { asking = null; });
      const key = await asking;
      if (!key) throw problem;
      keepKey(key);
    }
  }
}

async function attempt(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...authorization(), ...options.headers } });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (!response.ok) throw readProblem(response.status, await response.text(), response.headers.get("Retry-After"));
  return response;
}

/**
 * @param {string} path
 * @param {RequestInit} options
 * @returns {Promise<Response>} an answer of the 200s; anything else is thrown as a Problem
 */
export const call = (path, options = {}) => withKey(() => attempt(path, options));

/** The release that serves, or null where it cannot be known yet; never asks for a key. */
export async function currentRelease() {
  try {
    return await (await attempt("/v1/releases/current", {})).json();
  } catch {
    return null;
  }
}

/** What the server takes at most, or null where it does not say; never asks for a key. */
export async function currentLimits() {
  try {
    return await (await attempt("/v1/limits", {})).json();
  } catch {
    return null;
  }
}

/** The example songs of this server; none where there are none. */
export async function examples() {
  try {
    return await (await attempt("/examples", {})).json();
  } catch {
    return [];
  }
}

/**
 * Posts a form and reports how much of it has gone out, which fetch cannot.
 * @param {string} path
 * @param {() => FormData} form  made anew for each attempt
 * @param {{headers?: Object, onSent?: (share: number) => void, signal?: AbortSignal}} options
 * @returns {Promise<Object>} the answer's JSON
 */
export const upload = (path, form, options = {}) => withKey(() => uploadOnce(path, form(), options));

function uploadOnce(path, form, { headers = {}, onSent = () => {}, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries({ ...authorization(), ...headers })) request.setRequestHeader(name, value);
    let sent = 0;
    request.upload.onprogress = (event) => {
      sent = event.loaded / event.total || 0;
      onSent(sent);
    };
    request.upload.onload = () => onSent(1);
    request.onerror = () => reject(sent > 0 && sent < 1 ? broken(sent) : unreachable());
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    request.onload = () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(readProblem(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Only what an open endpoint shows by address; behind a key a picture is fetched, and shown from memory. */
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    fetchPicture(target).catch(() => target.classList.add("missing"));
  }
}, { rootMargin: "300px" });

/** A key may have a limit of requests a minute, which the covers of one song can reach: then the picture waits. */
async function fetchPicture(image, left = PICTURE_TRIES) {
  try {
    const address = URL.createObjectURL(await (await call(image.dataset.source)).blob());
    image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
    image.src = address;
  } catch (problem) {
    if (problem.status !== 429 || left === 0) throw problem;
    await new Promise((resolve) => setTimeout(resolve, 1_000 * (Number(problem.retryAfter) || 1)));
    await fetchPicture(image, left - 1);
  }
}

/**
 * Gives an image its picture when it comes near the window.
 * @param {HTMLImageElement} image
 * @param {string} source  an address of this API
 */
export function showPicture(image, source) {
  image.loading = "lazy";
  image.decoding = "async";
  image.addEventListener("error", () => image.classList.add("missing"));
  image.dataset.source = source;
  if (currentKey()) watcher.observe(image);
  else image.src = source;
}

/** @returns {Promise<string>} a picture of this API as a data: address, to be kept */
export async function pictureAsText(source) {
  const blob = await (await call(source)).blob();
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Saves what stands at an address of this API under a name. */
export const save = async (source, name) => saveBlob(await (await call(source)).blob(), name);

/** Saves bytes under a name. */
export function saveBlob(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  Object.assign(link, { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
