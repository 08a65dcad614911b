// Why a stream is where it is: the streamers that may take it, and those that cannot, by reason.
import { useMemo, useState } from 'preact/hooks';
import * as f from '../format';
import type { ExplainNode, Explanation } from '../model';
import { Mark, shortHost, StreamerLink } from '../parts';
import { href } from '../router';
import { code, pieces, t } from '../text';

const SHOWN_NODES = 8;
const UNFOLDED_MAX = 400;
/** The score counts a label as this much. */
const SCORE_PER_LABEL = 1000;

const loadOf = (node: ExplainNode) => Number(/load ([\d.]+) %/.exec(node.summary)?.[1] ?? 0);

function Candidates({ nodes }: { nodes: ExplainNode[] }) {
  const [isWhole, setWhole] = useState(false);
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
          {nodes.slice(0, isWhole ? UNFOLDED_MAX : SHOWN_NODES).map((node) => (
            <tr class={node.current ? 'here' : ''}>
              <td>
                <Mark of={node.current ? 'up' : 'none'} /> <StreamerLink hostname={node.hostname} />
              </td>
              <td class="num">{f.count(Math.floor((node.score ?? 0) / SCORE_PER_LABEL))}</td>
              <td class="num">{f.percent(loadOf(node))}</td>
              <td>{node.current && <b>{t('why.here')}</b>}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {nodes.length > SHOWN_NODES && (
        <p>
          <button class="quiet" onClick={() => setWhole(!isWhole)}>
            {isWhole ? t('why.fewer') : t('why.all', { n: nodes.length })}
          </button>
        </p>
      )}
    </>
  );
}

function reasonOf(node: ExplainNode): string {
  if (node.reasons.length > 0) {
    return node.reasons.map((reason) => code('reason', reason)).join(', ');
  }
  return node.summary.replace(/^Cannot take the stream: /, '').replace(/; load [\d.]+ %\.$/, '');
}

function grouped(nodes: ExplainNode[]): [string, ExplainNode[]][] {
  const groups = new Map<string, ExplainNode[]>();
  for (const node of nodes) {
    const reason = reasonOf(node);
    groups.set(reason, [...(groups.get(reason) ?? []), node]);
  }
  return [...groups].sort((a, b) => b[1].length - a[1].length);
}

export function Why({ explanation }: { explanation: Explanation }) {
  const nodes = explanation.nodes.filter((node) => node.role === 'ingest');
  const may = nodes.filter((node) => node.node_decision);
  const groups = useMemo(() => grouped(nodes.filter((node) => !node.node_decision)), [explanation]);
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
      {may.length > 0 && <Candidates nodes={may} />}
      {groups.map(([reason, list]) => (
        <details class="not">
          <summary>
            <Mark of="disabled" /> {t('why.cannot', { n: list.length, reason })}
          </summary>
          <p class="hosts">
            {list.slice(0, UNFOLDED_MAX).map((node) => (
              <a href={href('streamers', [node.hostname])} translate={false}>
                {shortHost(node.hostname)}{' '}
              </a>
            ))}
          </p>
        </details>
      ))}
    </>
  );
}
