package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"byrnie.dev/e2e/harness"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const permissionsFile = "testdata/permissions.txt"

// permissions: what our ServiceAccounts may do is what the file says, line by line, and none of what would
// let a stolen token of theirs have the cluster.
func (s *suite) permissions(t *testing.T) {
	granted := s.granted(t)
	want, err := os.ReadFile(permissionsFile)
	if err != nil {
		t.Fatal(err)
	}
	if have := strings.Join(granted, "\n") + "\n"; have != string(want) {
		t.Errorf("the permissions are not those of %s. If they should be, write this there:\n%s", permissionsFile, have)
	}
	for _, account := range []string{"byrnie-operator", "byrnie-injector"} {
		for _, never := range []authorizationv1.ResourceAttributes{
			{Verb: "get", Resource: "secrets", Namespace: "kube-system"},
			{Verb: "list", Resource: "secrets"},
			{Verb: "watch", Resource: "secrets"},
			{Verb: "watch", Resource: "secrets", Namespace: harness.SystemNamespace},
			{Verb: "create", Resource: "pods"},
			{Verb: "create", Resource: "pods", Subresource: "exec"},
			{Verb: "update", Resource: "pods", Subresource: "ephemeralcontainers"},
			{Verb: "create", Resource: "serviceaccounts", Subresource: "token"},
			{Verb: "get", Resource: "nodes", Subresource: "proxy"},
			{Verb: "impersonate", Resource: "users"},
			{Verb: "escalate", Resource: "clusterroles", Group: rbacv1.GroupName},
			{Verb: "bind", Resource: "clusterroles", Group: rbacv1.GroupName},
			{Verb: "update", Resource: "mutatingwebhookconfigurations", Name: "another", Group: "admissionregistration.k8s.io"},
			{Verb: "create", Resource: "mutatingwebhookconfigurations", Group: "admissionregistration.k8s.io"},
			{Verb: "update", Resource: "meshpolicies", Group: harness.MeshGroup},
			{Verb: "update", Resource: "meshtrusts", Group: harness.MeshGroup},
			{Verb: "approve", Resource: "signers", Group: "certificates.k8s.io"},
		} {
			review, err := s.Kube.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
				Spec: authorizationv1.SubjectAccessReviewSpec{
					User:               "system:serviceaccount:" + harness.SystemNamespace + ":" + account,
					Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + harness.SystemNamespace, "system:authenticated"},
					ResourceAttributes: &never,
				},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if review.Status.Allowed {
				t.Errorf("%s may %s %s/%s %q in %q: %s", account, never.Verb, never.Resource, never.Subresource, never.Name, never.Namespace, review.Status.Reason)
			}
		}
	}
}

// granted are the rules that are bound to ServiceAccounts of the mesh's namespace, one line each.
func (s *suite) granted(t *testing.T) []string {
	ctx, rbac := t.Context(), s.Kube.RbacV1()
	var lines []string
	add := func(subjects []rbacv1.Subject, where string, rules []rbacv1.PolicyRule) {
		for _, subject := range subjects {
			if subject.Namespace != harness.SystemNamespace && subject.Name != "system:serviceaccounts:"+harness.SystemNamespace {
				continue
			}
			for _, rule := range rules {
				lines = append(lines, linesOf(subject.Name+" "+where, rule)...)
			}
		}
	}
	cluster, err := rbac.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rulesOf := map[string][]rbacv1.PolicyRule{}
	clusterRoles, err := rbac.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range clusterRoles.Items {
		rulesOf["ClusterRole "+role.Name] = role.Rules
	}
	roles, err := rbac.Roles("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range roles.Items {
		rulesOf["Role "+role.Namespace+"/"+role.Name] = role.Rules
	}
	for _, binding := range cluster.Items {
		add(binding.Subjects, "everywhere", rulesOf["ClusterRole "+binding.RoleRef.Name])
	}
	bindings, err := rbac.RoleBindings("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, binding := range bindings.Items {
		name := binding.RoleRef.Kind + " " + binding.RoleRef.Name
		if binding.RoleRef.Kind == "Role" {
			name = "Role " + binding.Namespace + "/" + binding.RoleRef.Name
		}
		add(binding.Subjects, "in "+binding.Namespace, rulesOf[name])
	}
	slices.Sort(lines)
	return lines
}

// linesOf says a rule as one line per resource: who, what, which, and the verbs.
func linesOf(who string, rule rbacv1.PolicyRule) []string {
	verbs := strings.Join(slices.Sorted(slices.Values(rule.Verbs)), ",")
	names := ""
	if len(rule.ResourceNames) > 0 {
		names = " named " + strings.Join(rule.ResourceNames, ", ")
	}
	var lines []string
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			lines = append(lines, fmt.Sprintf("%s: %s %s%s", who, verbs, strings.TrimSuffix(resource+"."+group, "."), names))
		}
	}
	for _, url := range rule.NonResourceURLs {
		lines = append(lines, fmt.Sprintf("%s: %s %s", who, verbs, url))
	}
	return lines
}
