// Asks the service for the page's parts with the token of this tab, again and again.
// No cookie is used: nothing that another site or port sends carries the token.
"use strict";

const KEY = "evomerge-token";
const EVERY_MS = 3000;
const SLOWEST_MS = 30000;
const byId = (id) => document.getElementById(id);
const main = byId("main");
let etag = null;
let timer = null;
let failures = 0;

function say(text) {
  if (byId("said").textContent !== text) byId("said").textContent = text;
}

function partUrl() {
  const path = location.pathname === "/" ? "/studies" : location.pathname;
  return "/page/parts" + path + location.search;
}

function ask(url, options = {}) {
  const headers = { Authorization: "Bearer " + sessionStorage.getItem(KEY) };
  return fetch(url, { ...options, headers: { ...headers, ...options.headers } });
}

async function reason(answer) {
  try {
    const problem = await answer.json();
    return problem.detail || problem.title || "HTTP " + answer.status;
  } catch {
    return "HTTP " + answer.status;
  }
}

// Replaces the sections that changed; focus and scrolled places stay where they are.
function show(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html").body;
  const focus = document.activeElement && document.activeElement.id;
  const kept = new Map([...main.children].map((section) => [section.id, section]));
  const sections = [...fresh.children].map((section) => {
    const old = kept.get(section.id);
    if (old && old.isEqualNode(section)) return old;
    if (old) {
      const places = [...old.querySelectorAll(".scroll, pre")];
      queueMicrotask(() => section.querySelectorAll(".scroll, pre").forEach((box, k) => {
        if (places[k]) [box.scrollLeft, box.scrollTop] = [places[k].left, places[k].top];
      }));
      places.forEach((box, k) => { places[k] = { left: box.scrollLeft, top: box.scrollTop }; });
    }
    return section;
  });
  const same = sections.length === main.children.length &&
    sections.every((section, k) => section === main.children[k]);
  if (same) return;
  main.replaceChildren(...sections);
  if (focus && byId(focus) && document.activeElement !== byId(focus)) byId(focus).focus();
  const titled = main.querySelector("[data-title]");
  if (titled) document.title = titled.dataset.title + " – evomerge";
}

function logIn(why) {
  clearTimeout(timer);
  sessionStorage.removeItem(KEY);
  main.replaceChildren();
  etag = null;
  byId("leave").hidden = true;
  byId("login").hidden = false;
  byId("login-error").hidden = !why;
  byId("login-error").textContent = why || "";
  say("");
  byId("token").focus();
}

async function update() {
  clearTimeout(timer);
  try {
    const answer = await ask(partUrl(), { headers: etag ? { "If-None-Match": etag } : {} });
    if (answer.status === 401) return logIn(await reason(answer));
    byId("login").hidden = true;
    byId("leave").hidden = false;
    failures = 0;
    if (answer.ok) {
      etag = answer.headers.get("ETag");
      show(await answer.text());
      say("");
    } else if (answer.status !== 304) {
      if (answer.status >= 500 || answer.status === 429) failures += 1;
      say(await reason(answer));
    } else {
      say("");
    }
  } catch {
    failures += 1;
    say("The service does not answer; trying again. What is shown may be old.");
  }
  const wait = document.hidden ? SLOWEST_MS : Math.min(EVERY_MS * 2 ** failures, SLOWEST_MS);
  timer = setTimeout(update, wait);
}

const QUESTIONS = {
  cancel: "Cancel {}? What was scored is kept; it can be resumed later.",
  pause: "Pause {}? Its workers are given back until it is resumed.",
  resume: "Resume {}?",
};

function confirmed(question) {
  byId("ask-words").textContent = question;
  const dialog = byId("ask");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener(
    "close", () => done(dialog.returnValue === "yes"), { once: true }));
}

async function act({ action, user, name }) {
  if (!await confirmed(QUESTIONS[action].replace("{}", user + "/" + name))) return;
  const url = "/v1/studies/" + encodeURIComponent(name) + "/" + action +
    "?user=" + encodeURIComponent(user);
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" };
  try {
    const answer = await ask(url, options);
    if (answer.ok) await update();
    else say(await reason(answer));
  } catch {
    say("The service does not answer; nothing was done.");
  }
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  byId("token").value = "";
  // A header takes no other letters; a service's token has none.
  if (!/^[\x21-\x7e]+$/.test(token)) return logIn("This is no token.");
  sessionStorage.setItem(KEY, token);
  update();
});
byId("leave").addEventListener("click", () => logIn());
main.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) act(button.dataset);
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && sessionStorage.getItem(KEY)) update();
});

if (sessionStorage.getItem(KEY)) update();
else logIn();
