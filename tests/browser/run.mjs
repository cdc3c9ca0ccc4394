// The connect page in a real browser, against `hirelake sandbox` and `hirelake connect serve` as processes.
//
// usage: run.mjs HIRELAKE FOLDER     (CHROMIUM names the browser; /usr/bin/chromium unless set)
//
// Every page a customer can meet is reached as a customer reaches it, by keyboard alone, and then looked at in 360 px and
// 1280 px, light and dark: screenshots in FOLDER/screenshots; nothing wider than the window; contrast of every text; headings,
// landmarks, names, focus; nothing in the console; no violation of the policy; no request to another host. The happy path is
// walked once more without JavaScript. Exits 1 when anything is wrong, and says what.

import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { createRequire } from 'node:module';

const [hirelake, folder] = process.argv.slice(2).map((p) => path.resolve(p));
if (!hirelake || !folder) {
  console.error('usage: run.mjs HIRELAKE FOLDER');
  process.exit(2);
}
const { chromium } = createRequire(path.join(folder, 'package.json'))('playwright-core');

const WIDTHS = [360, 1280];
const SECRET = 'sandbox-secret';
const shots = path.join(folder, 'screenshots');
const work = path.join(folder, 'work');
const children = [];
const wrong = [];
let checks = 0;

function check(what, ok, detail = '') {
  checks += 1;
  if (!ok) {
    wrong.push(what);
    console.log(`WRONG  ${what}  ${detail}`);
  }
}

async function freePort() {
  const server = net.createServer();
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

async function listening(port) {
  for (let i = 0; i < 300; i += 1) {
    const up = await new Promise((done) => {
      const socket = net.connect(port, '127.0.0.1', () => done(true) || socket.destroy());
      socket.on('error', () => done(false));
    });
    if (up) return;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`nothing listens on port ${port}`);
}

/** Starts a process whose output is kept in a file; it is ended with us. */
function start(name, args, config) {
  const log = fs.openSync(path.join(work, `${name}.log`), 'a');
  const env = { ...process.env, ...(config ? { HIRELAKE_CONFIG: config } : {}) };
  const child = spawn(hirelake, args, { cwd: work, env, stdio: ['ignore', log, log] });
  children.push(child);
  return child;
}

async function end(child) {
  if (child.exitCode !== null) return child.exitCode;
  const ended = new Promise((done) => child.once('exit', done));
  child.kill('SIGTERM');
  return ended;
}

/** A configuration; `app` holds more lines of the app, `state` where its state is. */
function configure(name, url, port, { app = '', state = 'state', audience = `${url}/v1/` } = {}) {
  const file = path.join(work, `${name}.toml`);
  fs.writeFileSync(path.join(work, 'client.secret'), SECRET);
  fs.writeFileSync(path.join(work, 'vault.key'), 'c0ffee00'.repeat(8), { mode: 0o600 });
  fs.writeFileSync(
    file,
    `lake = "lake"
state = "${state}"
[vault]
key = { file = "vault.key" }
[apps.main]
title = "Acme Analytics"
description = "Copies your hiring data to your own warehouse every night."
environment = "sandbox"
client_id = "sandbox-client"
client_secret = { file = "client.secret" }
redirect_uris = ["http://127.0.0.1:${port}/callback"]
api_base = "${url}/v1"
authorize = "${url}/authorize"
token = "${url}/oauth/token"
revoke = "${url}/oauth/revoke"
audience = "${audience}"
${app}
[connect]
listen = "127.0.0.1:${port}"
`,
  );
  return file;
}

function invite(config, tenant, ...args) {
  const env = { ...process.env, HIRELAKE_CONFIG: config };
  return execFileSync(hirelake, ['connect', 'invite', tenant, ...args], { cwd: work, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).trim();
}

// ---- what is looked at on every page -------------------------------------------------------------------------------------

/** Runs inside the page: everything that can be judged from the document and its computed styles. */
function inspect() {
  const faults = [];
  const need = (ok, what) => ok || faults.push(what);
  need(document.documentElement.lang === 'en', 'no lang');
  need(document.title.trim().length > 3, 'no title');
  need(document.querySelector('meta[name=viewport]')?.content.includes('width=device-width'), 'no viewport');
  for (const landmark of ['header', 'main', 'footer']) {
    need(document.querySelectorAll(landmark).length === 1, `not one ${landmark}`);
  }
  need(document.querySelectorAll('h1').length === 1, 'not one h1');
  need(document.querySelector('main h1'), 'the h1 is not in main');
  let level = 0;
  for (const heading of document.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const own = Number(heading.tagName[1]);
    need(own <= level + 1, `the heading "${heading.textContent}" skips a level`);
    level = own;
  }
  for (const section of document.querySelectorAll('section')) {
    const name = document.getElementById(section.getAttribute('aria-labelledby'));
    need(name && name.textContent.trim(), 'a section has no name');
  }
  for (const control of document.querySelectorAll('button, a, input:not([type=hidden]), select, textarea')) {
    need(control.textContent.trim() || control.labels?.length || control.getAttribute('aria-label'), 'a control has no name');
    const box = control.getBoundingClientRect();
    need(box.height >= 44 && box.width >= 44, `"${control.textContent}" is ${box.width} x ${box.height}, less than 44`);
  }
  need(!document.querySelector('script, iframe, object, embed, [style], [onclick]'), 'a script, a frame or an inline style');
  need(document.documentElement.scrollWidth <= window.innerWidth, `it is ${document.documentElement.scrollWidth} wide in ${window.innerWidth}`);
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  need(new Set(ids).size === ids.length, 'an id stands twice');

  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ratio = (a, b) => {
    const [hi, lo] = [light(a), light(b)].sort((x, y) => y - x);
    return (hi + 0.05) / (lo + 0.05);
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color[3] === 1) return color;
      if (color[3] !== 0) return null;
    }
    return [255, 255, 255, 1];
  };
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.textContent.trim()) continue;
    const style = getComputedStyle(node.parentElement);
    const behind = ground(node.parentElement);
    need(behind, `behind "${node.textContent}" the colour is not known`);
    if (!behind) continue;
    texts += 1;
    const seen = ratio(parse(style.color), behind);
    need(seen >= 4.5, `"${node.textContent.trim().slice(0, 40)}" has a contrast of ${seen.toFixed(2)}`);
    need(parseFloat(style.fontSize) >= 13, `"${node.textContent.trim().slice(0, 40)}" is ${style.fontSize} small`);
  }
  need(texts > 5, 'there is hardly a text');
  return faults;
}

async function look(page, name) {
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    for (const width of WIDTHS) {
      await page.setViewportSize({ width, height: 800 });
      const faults = await page.evaluate(inspect);
      check(`${name} at ${width} px, ${colorScheme}`, faults.length === 0, faults.join('; '));
      const dark = colorScheme === 'dark' ? '-dark' : '';
      await page.screenshot({ path: path.join(shots, `${name}-${width}${dark}.png`), fullPage: true });
    }
  }
  await page.emulateMedia({ colorScheme: 'light' });
}

/** A browser window; what its console, its policy and its network say is judged. `origins`: where it may go. */
async function browse(browser, origins, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(70_000);
  const page = await context.newPage();
  const told = [];
  await page.exposeBinding('tellViolation', (_, text) => told.push(text));
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (e) => window.tellViolation(`policy: ${e.violatedDirective} ${e.blockedURI}`));
  });
  page.on('console', (message) => {
    // A page that answers 404 is told here too; whether its status is right is asked elsewhere. The provider has no icon.
    const status = /^Failed to load resource: the server responded with a status of/.test(message.text());
    const expected = [page.url(), `${origins[1]}/favicon.ico`].includes(message.location().url);
    if (!(status && expected)) told.push(`console: ${message.text()} (${message.location().url.split('?')[0]})`);
  });
  page.on('pageerror', (error) => told.push(`error: ${error.message}`));
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.protocol !== 'data:' && !origins.includes(url.origin)) told.push(`request to ${url.origin}`);
  });
  page.on('requestfailed', (request) => told.push(`failed: ${request.url().split('?')[0]} ${request.failure()?.errorText}`));
  return { context, page, told };
}

/** Presses Tab until `selector` has the focus, which must show. */
async function tabTo(page, selector, name) {
  for (let i = 0; i < 20; i += 1) {
    await page.keyboard.press('Tab');
    if (await page.locator(selector).evaluate((e) => e === document.activeElement)) {
      const shows = await page.locator(selector).evaluate((e) => {
        const style = getComputedStyle(e);
        return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
      });
      check(`${name}: the focus shows`, shows);
      return;
    }
  }
  check(`${name}: ${selector} can be reached by Tab`, false);
}

/** From the link to the provider's page, by keyboard. */
async function begin(page, link) {
  const response = await page.goto(link);
  check('the link opens', response.status() === 200, response.status());
  await tabTo(page, 'form button', 'the invitation');
  await Promise.all([page.waitForURL(/\/authorize\?/), page.keyboard.press('Enter')]);
}

/** The answer on the provider's page, by keyboard: the status of the page on which the browser ends. */
async function decide(page, account, decision = 'accept') {
  await page.locator('select').focus();
  await page.keyboard.type(account);
  check(`${account} is chosen by keyboard`, (await page.locator('select').inputValue()) === account);
  for (let i = 0; i < 5; i += 1) {
    await page.keyboard.press('Tab');
    if (await page.locator(`button[value=${decision}]`).evaluate((e) => e === document.activeElement)) break;
  }
  const ended = page.waitForResponse((r) => r.request().isNavigationRequest() && r.status() !== 302 && r.status() !== 303);
  await page.keyboard.press('Enter');
  const response = await ended;
  await page.waitForLoadState();
  return response.status();
}

const stateOf = (page) => new URL(page.url()).searchParams.get('state');

async function main() {
  fs.rmSync(shots, { recursive: true, force: true });
  fs.rmSync(work, { recursive: true, force: true });
  fs.mkdirSync(shots, { recursive: true });
  fs.mkdirSync(work, { recursive: true });
  const [provider, port, portAstray] = [await freePort(), await freePort(), await freePort()];
  const url = `http://127.0.0.1:${provider}`;
  const base = `http://127.0.0.1:${port}`;
  const callbacks = [port, portAstray].flatMap((p) => ['--redirect-uri', `http://127.0.0.1:${p}/callback`]);
  start('sandbox', ['sandbox', '--listen', `127.0.0.1:${provider}`, '--account', 'acme=50', '--account', 'birch=20', ...callbacks]);
  await listening(provider);
  const control = async (op) => {
    const answer = await fetch(`${url}/_control/`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(op) });
    if (!answer.ok) throw new Error(`the sandbox refuses ${JSON.stringify(op)}: ${await answer.text()}`);
  };
  const fault = (action) => control({ op: 'fault', fault: { route: 'POST /oauth/token', times: 0, action } });

  const config = configure('hirelake', url, port);
  const few = configure('few', url, port, { app: 'scopes = "offline_access opportunities:read:admin applications:read:admin users:read:admin"' });
  const astray = configure('astray', url, portAstray, { audience: `${url}/elsewhere/`, state: 'state-astray' });
  let server = start('serve', ['connect', 'serve'], config);
  start('astray', ['connect', 'serve'], astray);
  await Promise.all([listening(port), listening(portAstray)]);

  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  const origins = [base, url, `http://127.0.0.1:${portAstray}`];
  const windows = [];
  const open = async (options) => {
    const window = await browse(browser, origins, options);
    windows.push(window);
    return window.page;
  };
  const seen = [];
  /** One page that a customer can meet: its status, its heading, and how it looks. */
  const meet = async (page, name, status, expected, heading) => {
    check(`${name}: status`, status === expected, `${status}, not ${expected}`);
    const h1 = (await page.locator('h1').textContent()) ?? '';
    check(`${name}: heading`, h1 === heading, `"${h1}", not "${heading}"`);
    await look(page, name);
    seen.push(name);
  };

  // A sync holds a tenant: this page is waited for while all else goes on.
  fs.mkdirSync(path.join(work, 'state/locks'), { recursive: true });
  const lock = spawn('flock', [path.join(work, 'state/locks/held.lock'), 'sleep', '300'], { stdio: 'ignore' });
  children.push(lock);
  const busy = (async () => {
    const page = await open();
    await begin(page, invite(config, 'held'));
    return { page, status: await decide(page, 'acme') };
  })();

  // The happy path.
  const page = await open();
  const link = invite(config, 'acme');
  await meet(page, 'home', (await page.goto(`${base}/`)).status(), 200, 'Connect your Lever account');
  await meet(page, 'invitation', (await page.goto(link)).status(), 200, 'Connect Lever to Acme Analytics');
  // A consent that is denied leaves the link as it was.
  await begin(page, link);
  await meet(page, 'denied', await decide(page, 'acme', 'deny'), 403, 'Nothing was connected');
  await tabTo(page, 'a.button', 'a failure');
  await Promise.all([page.waitForURL(/\/invite\//), page.keyboard.press('Enter')]);
  await begin(page, link);
  await meet(page, 'connected', await decide(page, 'acme'), 200, 'Lever is connected');
  check('the code has left the address bar', new URL(page.url()).pathname === '/connected' && !page.url().includes('code='));
  check('the page can be loaded again', (await page.reload()).status() === 200);

  // Every way to fail.
  await meet(page, 'used-link', (await page.goto(link)).status(), 410, 'This link was used already');
  await meet(page, 'unknown-link', (await page.goto(`${link.slice(0, -6)}`)).status(), 404, 'This link is not known here');
  const short = invite(config, 'acme', '--expires', '1s');
  await page.waitForTimeout(1500);
  await meet(page, 'expired-link', (await page.goto(short)).status(), 410, 'This link has expired');
  await meet(page, 'not-found', (await page.goto(`${base}/nowhere`)).status(), 404, 'There is no such page');
  await meet(page, 'too-large', (await page.goto(`${base}/?${'x'.repeat(9000)}`)).status(), 413, 'That is too much');

  await begin(page, invite(config, 'acme'));
  await meet(page, 'wrong-account', await decide(page, 'birch'), 409, 'This is another account');
  await begin(page, invite(config, 'other'));
  await meet(page, 'account-taken', await decide(page, 'acme'), 409, 'This account is connected already');

  // The answer in another browser than the one that began.
  const other = await open();
  await begin(page, invite(config, 'birch'));
  await other.goto(page.url());
  await meet(other, 'other-browser', await decide(other, 'birch'), 400, 'This browser did not begin here');
  // Two windows of one browser: the answer of the first no longer counts.
  const second = await page.context().newPage();
  await begin(second, invite(config, 'birch'));
  await second.close();
  await meet(page, 'other-attempt', await decide(page, 'birch'), 400, 'This answer belongs to another attempt');

  for (const [name, query, status, heading] of [
    ['request-refused', 'error=invalid_scope', 502, 'The request was refused'],
    ['code-refused', 'code=invented', 502, 'The consent could not be completed'],
  ]) {
    await begin(page, invite(config, 'birch'));
    const answer = await page.goto(`${base}/callback?${query}&state=${stateOf(page)}`);
    await meet(page, name, answer.status(), status, heading);
  }
  for (const [name, action, status, heading] of [
    ['provider-down', { kind: 'status', code: 503 }, 503, 'The other side did not answer'],
    ['wrong-secret', { kind: 'status', code: 401, body: '{"error":"access_denied"}' }, 500, 'The application is not set up right'],
    ['no-refresh-token', { kind: 'drop_refresh_token' }, 500, 'The connection would not last'],
  ]) {
    await begin(page, invite(config, 'birch'));
    await fault(action);
    await meet(page, name, await decide(page, 'birch'), status, heading);
    await control({ op: 'clear_faults' });
  }
  await begin(page, invite(astray, 'birch'));
  await meet(page, 'wrong-audience', await decide(page, 'birch'), 500, 'Nothing could be read');

  // The state takes no grant of this tenant: a file stands where its folder is to be.
  fs.writeFileSync(path.join(work, 'state/grants/broken'), '');
  await begin(page, invite(config, 'broken'));
  await meet(page, 'internal-error', await decide(page, 'birch'), 500, 'Something went wrong here');
  fs.rmSync(path.join(work, 'state/grants/broken'));
  fs.rmSync(path.join(work, 'state/accounts'), { recursive: true });

  // A form of another site that leads to a link of ours.
  const lure = await open();
  await lure.goto(`${url}/nowhere`);
  const stolen = invite(config, 'birch');
  const [answer] = await Promise.all([
    lure.waitForResponse((r) => r.url() === stolen),
    lure.evaluate((action) => {
      const form = document.createElement('form');
      Object.assign(form, { method: 'post', action });
      document.body.append(form);
      form.submit();
    }, stolen),
  ]);
  await lure.waitForLoadState();
  await meet(lure, 'other-site', answer.status(), 403, 'Please open the link itself');

  const held = await busy;
  await meet(held.page, 'busy', held.status, 503, 'Please try again in some minutes');

  // Begun when less was asked for, and finished by another process: what is missing is named.
  check('a server that is asked to end ends well', (await end(server)) === 0);
  server = start('serve-few', ['connect', 'serve'], few);
  await listening(port);
  await begin(page, invite(few, 'birch'));
  await end(server);
  server = start('serve-again', ['connect', 'serve'], config);
  await listening(port);
  await meet(page, 'missing-scopes', await decide(page, 'birch'), 200, 'Lever is connected');
  check('missing scopes are named', (await page.locator('.box').textContent()).includes('contact:read:admin'));

  // Once more without JavaScript, on a telephone.
  const plain = await open({ javaScriptEnabled: false, viewport: { width: 360, height: 740 } });
  await plain.goto(invite(config, 'acme'));
  await plain.locator('form button').press('Enter');
  await plain.waitForURL(/\/authorize\?/);
  await plain.locator('select').selectOption('acme');
  await plain.locator('button[value=accept]').press('Enter');
  await plain.waitForURL(/\/connected$/);
  check('it works without JavaScript', (await plain.locator('h1').textContent()) === 'Lever is connected');
  await plain.screenshot({ path: path.join(shots, 'without-javascript-360.png'), fullPage: true });

  for (const { told } of windows) {
    check('the console, the policy and the network are quiet', told.length === 0, told.join('\n       '));
  }
  await browser.close();
  check('the server ends well', (await end(server)) === 0);
  const logs = fs.readdirSync(work).filter((f) => f.endsWith('.log') && f !== 'sandbox.log');
  const log = logs.map((f) => fs.readFileSync(path.join(work, f), 'utf8')).join('');
  for (const canary of [SECRET, 'c0ffee00', link.split('/').pop(), 'code=', 'state=']) {
    check(`the log does not hold ${canary.slice(0, 12)}`, !log.includes(canary));
  }
  check('the log has the outcomes', log.includes('outcome="connected"') && log.includes('outcome="denied"'), log.slice(0, 500));
  return seen;
}

let pages = [];
try {
  pages = await main();
} catch (error) {
  wrong.push('the run itself');
  console.log(error);
} finally {
  for (const child of children) child.kill('SIGKILL');
}
console.log(`${pages.length} pages (${pages.join(', ')}), ${checks} checks, ${wrong.length} wrong; screenshots in ${shots}`);
process.exit(wrong.length === 0 && pages.length > 0 ? 0 : 1);
