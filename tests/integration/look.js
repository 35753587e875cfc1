// Facts about the page, with everything folded open. Contrast as in WCAG 2.1: the least over all text that is visible.
(() => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  const parse = c => (c.match(/[\d.]+/g) || []).map(Number);
  const part = v => { v /= 255; return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length >= 3 && (c.length < 4 || c[3] > 0.99)) return c; } return [255, 255, 255]; };
  let worst = [99, ''];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walk.nextNode();) {
    const e = node.parentElement;
    if (!node.textContent.trim() || ['STYLE', 'TITLE'].includes(e.tagName) || !e.getClientRects().length) continue;
    const style = getComputedStyle(e), svg = e.closest('svg');
    const a = light(parse(svg ? style.fill : style.color)), b = light(ground(svg ? svg.parentElement : e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.6 && +style.fontWeight >= 600);
    const scaled = ratio * (large ? 1.5 : 1);  // large text needs two thirds
    if (scaled < worst[0]) worst = [scaled, node.textContent.trim().slice(0, 40)];
  }
  const root = document.scrollingElement, wide = [];
  document.querySelectorAll('main *').forEach(e => {
    if (e.closest('.wide') || e.closest('svg')) return;
    if (e.getBoundingClientRect().right > root.clientWidth + 1) wide.push(e.tagName + '.' + e.className);
  });
  const tiny = [...document.querySelectorAll('svg text')].map(t => {
    const svg = t.closest('svg'), scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    return parseFloat(getComputedStyle(t).fontSize) * scale; });
  const cut = [...document.querySelectorAll('svg:not(.spark)')].filter(s => { const box = s.getBoundingClientRect();
    return [...s.querySelectorAll('text')].some(t => { const r = t.getBoundingClientRect();
      return r.width && (r.left < box.left - 2 || r.right > box.right + 2); }); }).map(s => s.getAttribute('aria-label').slice(0, 60));
  return JSON.stringify({
    title: document.title, inner: innerWidth, scroll: root.scrollWidth, height: root.scrollHeight, wide: wide.slice(0, 5),
    sections: [...document.querySelectorAll('section')].map(s => s.id),
    empty: [...document.querySelectorAll('section')].filter(s => s.getBoundingClientRect().height < 60).map(s => s.id),
    images: [...document.images].map(i => i.complete && i.naturalWidth > 0),
    drawings: document.querySelectorAll('svg').length,
    nameless: [...document.querySelectorAll('svg, img, [role=img]')].filter(e => !(e.getAttribute('aria-label') || e.alt)).length,
    twice: [...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i).slice(0, 5),
    anchors: [...document.querySelectorAll('a[href^="#"]')].map(a => a.hash.slice(1)).filter(id => !document.getElementById(id)),
    contrast: worst, least_text: tiny.length ? Math.min(...tiny) : 99, cut: cut,
  });
})()
