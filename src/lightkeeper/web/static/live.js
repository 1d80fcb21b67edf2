// Keeps an open page true: every two seconds it fetches the page again and puts what differs in its place.
// Elements that stay the same are left alone, so scrolling, selection, focus and opened details stay too.

const BEAT = 2000;
const PATIENCE = 15000;
const connection = document.getElementById("connection");
let lostSince = null;
let newest = { at: "", heard: Date.now() };
let beating = 0;

function say(state, text) {
  if (connection.dataset.state !== state) connection.dataset.state = state;
  if (connection.textContent !== text) connection.textContent = text;
}

function makeAlike(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  before.slice(after.length).forEach((node) => node.remove());
  after.forEach((node, n) => (n < before.length ? makeAlike(before[n], node) : old.append(node)));
}

// Returns why what is shown can no longer be trusted, or "".
async function look() {
  const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!answer.ok) return answer.status === 503 ? "no database" : "no page";
  if (fresh.documentElement.dataset.build !== document.documentElement.dataset.build) {
    location.reload(); // another version answers: its page needs its own style and script
    return "";
  }
  if (document.title !== fresh.title) document.title = fresh.title;
  for (const part of document.querySelectorAll("[data-live]")) {
    const news = fresh.getElementById(part.id);
    if (news) makeAlike(part, news);
  }
  const at = document.querySelector("#generated time").dateTime;
  if (at !== newest.at) newest = { at, heard: Date.now() };
  return Date.now() - newest.heard > PATIENCE + BEAT ? "no news" : "";
}

async function beat() {
  clearTimeout(beating);
  if (document.hidden) return;
  const trouble = await look().catch(() => "connection lost");
  if (trouble) {
    lostSince ??= new Date().toISOString().slice(11, 19);
    say("lost", `${trouble} since ${lostSince} UTC`);
  } else {
    lostSince = null;
    say("live", "live");
  }
  document.documentElement.classList.toggle("lost", Boolean(trouble));
  clearTimeout(beating);
  beating = setTimeout(beat, BEAT);
}

document.addEventListener("visibilitychange", () => {
  newest.heard = Date.now(); // nobody looked meanwhile
  beat();
});
say("live", "live");
beating = setTimeout(beat, BEAT);
