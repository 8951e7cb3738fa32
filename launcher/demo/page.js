() => {
  // Copy buttons. Without a secure context (a page over plain http from another machine) there is no clipboard API.
  const copy = async (text) => {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest(".tts-steps .copy");
    if (!button) return;
    await copy(button.parentElement.querySelector("code").textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });

  // The page outlives its instance: ask whether that still answers, and whether it is still the same process.
  const banner = document.createElement("div");
  banner.id = "tts-gone";
  banner.setAttribute("role", "status");
  document.body.append(banner);
  const pidIn = (text) => (text.match(/<dt>pid<\\?\/dt><dd>(\d+)/) || [])[1];
  let own = null, missed = 0;
  const show = (text, reload) => {
    if (banner.firstChild && banner.firstChild.textContent === text) return;
    banner.replaceChildren(document.createTextNode(text));
    if (!reload) return;
    const button = document.createElement("button");
    button.textContent = "reload";
    button.addEventListener("click", () => window.location.reload());
    banner.append(button);
  };
  const look = async () => {
    let pid = null;
    try {
      const answer = await fetch("config", { cache: "no-store", signal: AbortSignal.timeout(4000) });
      pid = answer.ok ? pidIn(await answer.text()) : null;
    } catch { pid = null; }
    if (pid) {
      own = own || pid;
      missed = 0;
      if (pid === own) banner.replaceChildren();
      else show(`Another instance runs here now, pid ${pid}.`, true);
    } else if (++missed >= 2) {
      const card = document.querySelector("#try [data-start]");
      show(`This instance has stopped${card ? `. To start it: ${card.dataset.start}` : "."}`, false);
    }
  };
  const shown = document.querySelector("#process dd");
  own = shown && /^\d+$/.test(shown.textContent) ? shown.textContent : null;
  setInterval(look, 2500);
}
