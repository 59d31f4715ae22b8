// Several videos in step: one scrubber, frame by frame, and a loop. The first video leads.
"use strict";
for (const player of document.querySelectorAll(".player")) {
  const videos = [...player.querySelectorAll("video")], [lead] = videos;
  const frames = Number(player.dataset.frames), rate = Number(player.dataset.rate);
  const range = player.querySelector("input[type=range]"), output = player.querySelector("output");
  const play = player.querySelector("[data-do=play]"), loop = player.querySelector("[name=loop]");
  const frame = () => Math.min(frames - 1, Math.max(0, Math.floor(lead.currentTime * rate + 0.01)));
  const tell = () => { range.value = frame(); output.textContent = range.value; };
  const go = (number) => {
    // Into the middle of the frame: at its edge, browsers differ.
    for (const video of videos) video.currentTime = (number + 0.5) / rate;
    range.value = number;
    output.textContent = number;
  };
  const pause = () => { for (const video of videos) video.pause(); play.textContent = "Play"; };
  const step = (by) => { pause(); go((frame() + by + frames) % frames); };
  play.addEventListener("click", () => {
    if (!lead.paused) { pause(); return; }
    if (frame() >= frames - 1) go(0);
    for (const video of videos) { video.currentTime = lead.currentTime; video.play(); }
    play.textContent = "Pause";
  });
  player.querySelector("[data-do=back]").addEventListener("click", () => step(-1));
  player.querySelector("[data-do=on]").addEventListener("click", () => step(1));
  range.addEventListener("input", () => { pause(); go(Number(range.value)); });
  loop.addEventListener("change", () => { for (const video of videos) video.loop = loop.checked; });
  lead.addEventListener("ended", pause);
  const follow = () => {
    if (!lead.paused) {
      for (const video of videos.slice(1)) {
        if (Math.abs(video.currentTime - lead.currentTime) > 0.5 / rate) video.currentTime = lead.currentTime;
      }
      tell();
    }
    requestAnimationFrame(follow);
  };
  requestAnimationFrame(follow);
  player.dataset.ready = "1";
}
