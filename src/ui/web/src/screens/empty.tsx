// Empty lists: why they are empty, and what to do about it.
import type { ComponentChildren } from 'preact';
import { apiAddress } from '../api';
import { href } from '../router';
import { t } from '../text';

/** Commands for a shell in which `KEY` is the API key. */
function Commands({ of }: { of: string[] }) {
  return (
    <pre class="json" tabindex={0} role="region" aria-label={t('empty.commands')} translate={false}>
      {of.join('\n')}
    </pre>
  );
}

const curl = (path: string, rest = '') =>
  `curl -H "Authorization: Bearer $KEY" ${apiAddress()}${path}${rest}`;

/** Saves a streamer, then reads its configuration as it does: the second poll shows it as up. */
export function FirstStreamer() {
  const path = '/streamers/s1.example.com';
  const streamer = { role: 'streamer', cluster_key: 'secret1', api_url: 'http://10.0.0.1:8080' };
  const commands = [
    curl(path, ` -X PUT -d '${JSON.stringify(streamer)}'`),
    curl(`${path}/streams`),
  ];
  return (
    <>
      <p>{t('streamers.first')}</p>
      <Commands of={commands} />
    </>
  );
}

export function FirstStream() {
  const stream = { inputs: [{ url: 'udp://239.0.0.1:1234' }] };
  const save = curl('/streams/NAME', ` -X PUT -d '${JSON.stringify(stream)}'`);
  return (
    <>
      <p>{t('streams.first')}</p>
      <Commands of={['weir import channels.m3u8', save]} />
    </>
  );
}

/** Nothing matches the filters; `to` are those of the screen that remain without them. */
export function NoMatch(props: {
  screen: string;
  to?: Record<string, string | undefined>;
  children: ComponentChildren;
}) {
  return (
    <>
      <p>{props.children}</p>
      <p>
        <a class="button" href={href(props.screen, [], props.to)}>
          {t('filter.clear')}
        </a>
      </p>
    </>
  );
}
