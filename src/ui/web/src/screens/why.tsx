// Why a stream is where it is: the best streamers for it, and how many cannot take it, by reason.
import { labelScore, placesOf } from '../explained';
import * as f from '../format';
import type { ExplainGroup, ExplainNode, Explanation } from '../model';
import { Mark, shortHost, StreamerLink } from '../parts';
import { href } from '../router';
import { code, pieces, t } from '../text';

function Candidates({ nodes, more }: { nodes: ExplainNode[]; more: number }) {
  return (
    <>
      <table class="plain">
        <thead>
          <tr>
            <th>{t('col.streamer')}</th>
            <th class="num">{t('col.score')}</th>
            <th class="num">{t('col.full')}</th>
            <th>
              <span class="hidden">{t('col.note')}</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {nodes.map((node) => (
            <tr class={node.current ? 'here' : ''} key={node.hostname}>
              <td>
                <Mark of={node.current ? 'up' : 'none'} /> <StreamerLink hostname={node.hostname} />
              </td>
              <td class="num">{f.count(labelScore(node))}</td>
              <td class="num">{f.percent(node.load_percent)}</td>
              <td>{node.current && <b>{t('why.here')}</b>}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {more > 0 && <p class="muted">{t('bulk.more', { n: more })}</p>}
    </>
  );
}

/** Streamers that cannot take the stream for the same reasons; some are named. */
function Obstacle({ of: { hostnames, nodes, reasons } }: { of: ExplainGroup }) {
  const words = reasons.map((reason) => code('reason', reason)).join(', ');
  const rest = nodes - hostnames.length;
  return (
    <details class="not">
      <summary>
        <Mark of="disabled" /> {t('why.cannot', { n: nodes, reason: words })}
      </summary>
      <p class="hosts">
        {hostnames.map((hostname) => (
          <a href={href('streamers', [hostname])} translate={false} key={hostname}>
            {shortHost(hostname)}{' '}
          </a>
        ))}
        {rest > 0 && <span class="muted">{t('bulk.more', { n: rest })}</span>}
      </p>
    </details>
  );
}

export function Why({ explanation }: { explanation: Explanation }) {
  const { candidates, more, obstacles } = placesOf(explanation);
  return (
    <>
      <p class="lead" lang="en">
        {explanation.summary}
      </p>
      {explanation.better && (
        <p>
          {pieces('why.better', {
            name: <StreamerLink hostname={explanation.better.hostname} />,
            why: <span lang="en">{explanation.better.why_not_now}</span>,
          })}
        </p>
      )}
      {candidates.length > 0 && <Candidates nodes={candidates} more={more} />}
      {obstacles.map((group) => (
        <Obstacle of={group} key={group.reasons.join()} />
      ))}
    </>
  );
}
